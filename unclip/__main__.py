"""`python -m unclip`, so that `accelerate-launch -m unclip train …` works."""

from unclip.cli import main

main()
