/* All bodies and the table of one ISA and dtype: included last, inside the target region. RV_TABLE is the table's name. */
#include "common_inl.h"
#include "primitives_inl.h"
#include "moe_inl.h"
#include "tile_inl.h"
#include "few_inl.h"

const rv_kernels RV_TABLE = {
    .dot = dot,
    .dots = dots,
    .map = map,
    .softmax_row = softmax_row,
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
#if RV_REAL_BITS == 32
    .widen = widen,
    .narrow = narrow,
#endif
};
