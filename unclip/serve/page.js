/* What the page does in the browser: unknown words, chips, keys, and what survives a reload. */
"use strict";
window.unclip = (() => {
  const vocabulary = window.unclipVocabulary && new Set(window.unclipVocabulary);
  const kept = ["prompt", "negative"]; // text fields that survive a reload
  let loaded = false;

  const field = id => document.querySelector(`#${id} textarea`);
  const stored = id => {
    try { return localStorage.getItem(`unclip-${id}`) ?? ""; } catch { return ""; }
  };
  const store = (id, text) => {
    try { localStorage.setItem(`unclip-${id}`, text); } catch { /* no storage: nothing survives */ }
  };

  /* As prompt_words in unclip/vocabulary.py. */
  const words = text => text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu) ?? [];

  /* Says unknown words below every prompt, and keeps the texts. */
  const look = () => {
    for (const box of vocabulary ? document.querySelectorAll(".words") : []) {
      let note = box.querySelector(".unknown");
      if (!note) {
        note = Object.assign(document.createElement("p"), {className: "unknown"});
        note.setAttribute("aria-live", "polite");
        box.append(note);
      }
      const typed = new Set(words(box.querySelector("textarea, input")?.value ?? ""));
      const unknown = [...typed].filter(word => !vocabulary.has(word));
      const text = unknown.length ? `This model does not know: ${unknown.join(", ")}` : "";
      if (note.textContent !== text) note.textContent = text;
    }
    if (loaded) for (const id of kept) if (field(id)) store(id, field(id).value);
    return [];
  };

  const type = (id, text) => {
    const box = field(id);
    box.value = text;
    box.dispatchEvent(new Event("input", {bubbles: true}));
    box.focus({preventScroll: true});
  };

  const show = id => {
    const part = document.getElementById(id);
    const {top, bottom} = part.getBoundingClientRect();
    if (top < 0 || top > innerHeight - 80) part.scrollIntoView({behavior: "smooth", block: "start"});
    return [];
  };

  document.addEventListener("input", event => {
    if (event.target.closest?.(".words")) look();
  });
  document.addEventListener("click", event => {
    const {prompt, add} = event.target.closest?.("#tabs .ideas button")?.dataset ?? {};
    if (prompt) type("prompt", prompt);
    if (add) type("prompt", `${field("prompt").value.trimEnd()} ${add}`.trimStart());
  });
  document.addEventListener("keydown", event => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault(); // a text field would start it a second time
    event.stopPropagation();
    const start = [...document.querySelectorAll("#tabs button.go")].find(button => button.offsetParent);
    if (start && !start.disabled && !document.querySelector("#status .busy")) start.click();
  }, true);

  /* The status is read out, and scrolled to where it is out of sight. */
  let last = "";
  new MutationObserver(() => {
    const status = document.getElementById("status");
    if (!status) return;
    if (status.getAttribute("aria-live") !== "polite") {
      status.setAttribute("role", "status");
      status.setAttribute("aria-live", "polite");
    }
    const now = status.querySelector(".busy, .error")?.className ?? "";
    if (now && now !== last) show("status");
    last = now;
  }).observe(document, {childList: true, subtree: true});

  return {
    look,
    show,
    words,
    has: value => typeof value === "string" ? value.trim() !== "" : Boolean(value && (value.background ?? !("layers" in value))),
    changed: ready => (look(), {__type__: "update", interactive: ready}),
    /* Undefined leaves a field as it is: what somebody typed meanwhile stays. */
    saved: () => {
      loaded = true;
      return kept.map(id => field(id)?.value ? undefined : stored(id) || undefined);
    },
  };
})();
