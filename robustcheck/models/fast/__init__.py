"""Forms of a network that answer faster: other forms for searches, and the artefact itself for oracles.

`fast_form` makes the form that searches follow: traced and `tidying`, with batch norms folded, DenseNets in less memory
(`pre_activation`, `growing`), and in bfloat16, where the machine has it and `multiplications` are mostly those of
convolutions, in `two_parts`, with `joined` convolutions whose weights are `packed` once, or `unfolded` ones. `nodes`
tells what a step of a traced network is. `endings` leaves off the softmax or sigmoid that a network ends in.

`layout` asks the artefact for oracles: images channels last, some of its layers `fused` while it is asked.
"""
