"""What code that writes results and code that shows them have to agree on, apart from the results themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robustcheck.words import distinct

# --- in the folder of a report ---
COUNTEREXAMPLES = "counterexamples"  # the folder of all images
CLEAN, PATCHES = "clean", "patches"  # the folders in it for clean images and for patches
BEYOND_THEIR_BUDGET = ("fmn", "ensemble")  # attacks that also keep the nearest counterexamples that are too far
EXAMPLES_A_GATE = 6  # counterexamples whose clean images are kept, and that the page shows

# --- in results ---
WORST_SUBGROUP, WORST_FINDING = "worst_subgroup", "worst_finding"  # before a metric's name, and a dot
SET_BY_A_GRID = ("scale", "perspective")  # conditions that distances and angles set


def folder_names(gates: Sequence[str]) -> dict[str, str]:
    """A folder of images per gate: pgd[2/255] -> pgd-2-255; a number separates ids that would share one somewhere."""
    plain = [re.sub(r"[^A-Za-z0-9_.]+", "-", gate).strip("-.") or "gate" for gate in gates]
    return dict(zip(gates, distinct(plain, taken=(CLEAN, PATCHES)), strict=True))
