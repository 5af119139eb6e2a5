"""ONNX candidates: the bytes are checked (`file`, `loops`), judged by ONNX Runtime (`session`, on a `runtime` that
reports nothing, against the `clock`), and searched through a twin (`robustcheck.models.twin`) that has to agree with it
(`agreement`). A label that a file names itself has to be what its scores say (`labels`). `load` puts them together.
"""
