"""Which of torch's operators a stranger's graph may call.

Some reach files, print, or trust sizes, strides and indices, and so read and write memory outside their tensors. What
is private to torch (`_name`) is not made for graphs: those that exporters write are listed.
"""

from __future__ import annotations

_REACH_FILES = frozenset({"from_file", "save", "load"})
# The first of these make a tensor of any other's memory, and the others do not check where indices lead.
_UNCHECKED = frozenset(
    (  # noqa: SIM905
        "set set_ set_data segment_reduce embedding_backward embedding_bag embedding_sparse_backward grad "
        "sparse_resize_ sparse_resize_and_clear_"
    ).split()
)
# The indices of a sparse tensor can be written to, and nothing checks them again; a gradient may be one.
_UNCHECKED_LAYOUTS = (
    "to_sparse", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "sparse_compressed",
)  # fmt: skip
_LOOK = frozenset({"_indices", "_nnz", "_values", "_version"})  # which are also good names for a network's own
# What Inductor considers unsafe is checked when torch itself computes it.
_WRITTEN_BY_EXPORTERS = frozenset(
    (  # noqa: SIM905
        "_add_relu _addmm_activation _assert_async _assert_scalar _assert_tensor_metadata _cdist_forward _conj "
        "_conj_copy _conj_physical _conv_depthwise2d _euclidean_dist _fused_rms_norm _grad_sum_to_size _infer_size "
        "_int_mm _is_all_true _is_any_true _list_to_tensor _local_scalar_dense _log_softmax "
        "_native_multi_head_attention _neg_view _neg_view_copy _pack_padded_sequence _pad_circular _pad_enum "
        "_pad_packed_sequence _pdist_forward _prelu_kernel _reshape_copy _safe_softmax _set_item _shape_as_tensor "
        "_size_if_not_equal _softmax _stack _tensor_to_list _to_copy _to_cpu _transformer_encoder_layer_fwd "
        "_trilinear _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view _unwrap_optional _unique2 "
        "_weight_int8pack_mm"
    ).split()
)
# Families that grow: what is scripted names all of a function that it calls.
_FAMILIES = (
    "_adaptive_avg_pool", "_batch_norm_", "_cast_", "_convolution", "_fft_", "_linalg_", "_native_batch_norm_legit",
    "_nested_tensor_from_mask", "_scaled_dot_product_", "_thnn_fused_", "_upsample_", "_weight_norm",
)  # fmt: skip


def is_refused(name: str) -> bool:
    """Whether an operator of aten is not one of those that are run, by its name without namespace and overload."""
    private = name.startswith("_") and not name.startswith("__")
    return (
        name in _REACH_FILES | _UNCHECKED
        or name.startswith(_UNCHECKED_LAYOUTS)
        or (private and name not in _WRITTEN_BY_EXPORTERS | _LOOK and not name.startswith(_FAMILIES))
    )
