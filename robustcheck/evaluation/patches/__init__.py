"""Gates with patches: unlike a change to one image, one patch is trained for many samples and judged on others.

`task` says which images and places a gate is about; `making` trains a patch (`training`) for what the adversary may
want (`aiming`) or reads one (`files`); `judging` tries it; and `gates` runs the whole gate with its controls.
"""
