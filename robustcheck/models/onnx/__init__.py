"""ONNX candidates: the bytes are checked (`file`, `loops`), judged by ONNX Runtime (`session`, on a `runtime` that
reports nothing, against the `clock`), and searched through a twin (`robustcheck.models.twin`) that has to agree with it
(`agreement`): in `score_readings`, in their `slopes`, which get a `second_look` where a network bends, and at the
`borders` between readings where it is sure of its samples. A label that a file names itself has to be what its scores
say (`labels`). `load` puts them together.
"""
