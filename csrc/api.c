/* The entry points as one table, for modules that reach them by capsule. */
#include "ruvector.h"

extern const rv_api rv_api_table;

const rv_api rv_api_table = {
    .map_run = rv_map_run,
    .map_ulp = rv_map_ulp,
    .dots_run = rv_dots_run,
    .scores_run = rv_scores_run,
    .softmax_run = rv_softmax_run,
    .norm_run = rv_norm_run,
    .activation_run = rv_activation_run,
    .entmax_run = rv_entmax_run,
    .draw_run = rv_draw_run,
    .attn_run = rv_attn_run,
    .rows_run = rv_rows_run,
    .merge_run = rv_merge_run,
    .hyp_run = rv_hyp_run,
    .hyp_gaps = rv_hyp_gaps,
    .csr_build = rv_csr_build,
    .gat_run = rv_gat_run,
    .type_at = rv_type_at,
    .type_lower = rv_type_lower,
    .topk_run = rv_topk_run,
    .expert_group = rv_expert_group,
    .type_run = rv_type_run,
    .projection_draw = rv_projection_draw,
    .linear_state = rv_linear_state,
    .linear_begin = rv_linear_begin,
    .score_run = rv_score_run,
    .heads_mean = rv_heads_mean,
};
