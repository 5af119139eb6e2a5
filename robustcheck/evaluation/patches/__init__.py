"""Gates of patches, which are no points of one image: one patch is trained for many samples, and judged on others.

`task` says which images and places a gate is about, `making` trains a patch (`training`) for what the adversary may
want (`aiming`) or reads one (`files`), `judging` tries it, and `gates` puts it together with the controls.
"""
