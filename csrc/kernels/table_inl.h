/* All bodies and the table of one ISA and dtype: included last, inside the target region. RV_TABLE is the table's name. */
#include "common_inl.h"
#include "primitives_inl.h"
#include "softmax_inl.h"
#include "layers_inl.h"
#include "entmax_inl.h"
#include "tile_inl.h"
#include "few_inl.h"
#include "peak_inl.h"
#include "hyperbolic_inl.h"
#include "graph_inl.h"
#include "moe_inl.h"
#include "linear_inl.h"

const rv_kernels RV_TABLE = {
    .dot = dot,
    .dots = dots,
    .cross_dots = cross_dots,
    .map = map,
    .map_ulp = map_ulp,
    .softmax_rows = softmax_rows,
    .softmax_part = softmax_part,
    .softmax_scale = softmax_scale,
    .softmax_shift = softmax_shift,
    .norm_rows = norm_rows,
    .activate = activate,
    .entmax_rows = entmax_rows,
    .topk = topk,
    .tile_rows = tile_rows,
    .tile_scratch = tile_scratch,
    .tile_begin = tile_begin,
    .tile_keys = tile_keys,
    .tile_finish = tile_finish,
    .few_state = few_state,
    .few_scratch = few_scratch,
    .few_keys = few_keys,
    .few_merge = few_merge,
    .few_finish = few_finish,
    .weights_scratch = weights_scratch,
    .weights = weights,
    .peak_fma = peak_fma,
#if RV_HAVE_DOT2
    .peak_dot2 = peak_dot2,
#endif
    .peak_read = peak_read,
    .hyp_get = hyp_get,
    .hyp_set = hyp_set,
    .hyp_pad = hyp_pad,
    .hyp_panel = hyp_panel,
    .hyp_norms = hyp_norms,
    .hyp_sums = hyp_sums,
    .hyp_rows = hyp_rows,
    .hyp_weights = hyp_weights,
    .hyp_times = hyp_times,
    .hyp_finish = hyp_finish,
    .graph_half_row = graph_half_row,
    .graph_halves = graph_halves,
    .graph_scratch = graph_scratch,
    .graph_rows = graph_rows,
    .graph_state = graph_state,
    .graph_part = graph_part,
    .graph_merge = graph_merge,
    .graph_finish = graph_finish,
    .linear_scratch = linear_scratch,
    .linear_begin = linear_begin,
    .linear_keys = linear_keys,
    .linear_merge = linear_merge,
    .linear_view = linear_view,
    .linear_rows = linear_rows,
    .linear_chunk = linear_chunk,
#if RV_REAL_BITS == 32
    .widen = widen,
    .narrow = narrow,
#endif
};
