"""Taking out of a graph what its author's tools put in and no runtime needs."""

import onnx_ir.passes.common as passes
from onnxscript import ir
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules

# Those of onnxscript's rules that change anything here; all of them take five times as long.
_RULES = (
    rules.dropout_inference_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_gemm_rule,
    rules.materialize_reshape_shape_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.no_op_transpose_rule,
    rules.no_op_expand_rule,
    rules.no_op_cast_rule,
    rules.div_by_1_rule,
    rules.mul_by_1_rule,
    rules.add_0_rule,
)


def simplify(model: ir.Model) -> None:
    """Changes a graph, in place, to an equal one that is shorter.

    Constants are folded, batch norms go into the convolution or matrix product before them, what does nothing
    goes. Up to rounding the outputs stay what they were.
    """
    passes.InlinePass()(model)
    for _ in range(2):  # a rule may leave a constant to fold, and folding something for a rule
        fold_constants(model, onnx_shape_inference=True)
        rewrite(model, _RULES)
    for finish in (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
    ):
        finish(model)
