"""The eighteen creatures of the menagerie, by the names that captions use.

`mammals`, `critters` and `people` draw them, with shared parts from `anatomy`.
"""

from __future__ import annotations

from unclip.menagerie.drawing.critters import CRITTERS
from unclip.menagerie.drawing.figure import Subject
from unclip.menagerie.drawing.mammals import MAMMALS
from unclip.menagerie.drawing.people import PEOPLE
from unclip.menagerie.scene import SUBJECTS

SUBJECT_DRAWINGS: dict[str, Subject] = {name: (MAMMALS | CRITTERS | PEOPLE)[name] for name in SUBJECTS}
