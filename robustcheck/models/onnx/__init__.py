"""ONNX candidates: the bytes are checked (`file`, `loops`), judged by ONNX Runtime (`session`, on a `runtime` that
reports nothing, against the `clock`), and searched through a twin (`robustcheck.models.twin`) that has to agree with it
(`agreement`): in `score_readings`, and at the `borders` between them where a network is sure of its samples. A label
that a file names itself has to be what its scores say (`labels`). `load` puts them together.
"""
