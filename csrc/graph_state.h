/* What graph.c hands to the graph kernels. */
#ifndef RV_GRAPH_STATE_H
#define RV_GRAPH_STATE_H

#include "ruvector.h"

/* Edges whose logits and weights are in scratch at once; rows with no more are finished in one go, the others carry a state
 * from chunk to chunk. At most RV_CARRY_KEYS. */
#define RV_GRAPH_EDGES 128

/* Edges of a row that one state takes: longer rows are merged from several, so that threads can share one. */
#define RV_GRAPH_SPLIT 16384

typedef struct rv_graph {
    const rv_gat_args *a;
    void *source_half, *target_half;        /* version 1: what sources and targets bring to the logits */
    uint64_t dropout_below;                 /* weights whose 32-bit draw is below this are dropped; 0 = no dropout */
    double dropout_gain;                    /* 1 / (1 - p) */
} rv_graph;

#endif
