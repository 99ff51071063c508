/* The table of kernels that every instruction set fills, made from kernels.def. Included by csrc only. */
#ifndef RV_KERNELS_H
#define RV_KERNELS_H

#include "attn_state.h"
#include "hyp_state.h"
#include "graph_state.h"
#include "linear_state.h"
#include "ruvector.h"
#include "target.h"

/* Where the rows of a call come from, by the size of all of them. */
typedef enum rv_reach { RV_NEAR = 0, RV_SECOND_CACHE, RV_LAST_CACHE, RV_MEMORY } rv_reach;

typedef struct rv_kernels {
#define RV_KERNEL(type, name, parameters) type(*name) parameters;
#include "kernels.def"
#undef RV_KERNEL
} rv_kernels;

/* One pair of tables per ISA, each the only symbol of its file in isa/. An ISA that adds nothing for a type shares the table. */
#if RV_X86
extern const rv_kernels rv_kernels_avx512bf16_f32;
extern const rv_kernels rv_kernels_avx512_f32, rv_kernels_avx512_f64;
extern const rv_kernels rv_kernels_avx2_f32, rv_kernels_avx2_f64;
#elif RV_ARM64
extern const rv_kernels rv_kernels_neon_f32, rv_kernels_neon_f64;
#endif
extern const rv_kernels rv_kernels_scalar_f32, rv_kernels_scalar_f64;

/* The active ISA's table for arithmetic in `compute` (16-bit storage computes in float32). One atomic load: look it up once
 * per public call and keep it, so that a call runs on one ISA whatever rv_isa_use does meanwhile. */
const rv_kernels *rv_kernels_get(rv_dtype compute);

#endif
