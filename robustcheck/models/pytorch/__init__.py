"""PyTorch candidates: files are checked before anything in them is run.

`state_dict` builds an architecture of the user's, which `filling` puts weights into: which of a `checkpoint` those are,
what it says that the network was built with (`hyper_parameters`), which layers torch does not see (`unregistered`), and
which values are `drawn` anew whenever it is built. `pickles` are walked through before torch makes anything of them,
those of checkpoints by `checkpoint_pickle`. `torchscript` and `torch_export` load whole networks, of which
`torchscript_tensors` and `torch_export_graph` say what they may hold, `torch_operators` what they may call, and
`torchscript_depth` how deeply code may be nested.
"""
