/* What the machine can do at the most, for the benchmark. Included by the one module that links csrc and by its tests. */
#ifndef RV_PEAK_H
#define RV_PEAK_H

#include "ruvector.h"

/* A part of a buffer must hold this many bytes, of which only whole blocks are read. */
#define RV_PEAK_LEAST 4096

/* Independent fused multiply-adds (scalar: multiplications and additions) of the active ISA on each of `threads` threads at
 * once, `rounds` rounds each; 2e6 rounds take some ms. *operations = floating-point operations done in all.
 * RV_ERR_UNKNOWN for a dtype that the ISA has no arithmetic in. */
rv_status rv_peak_fma(rv_dtype dtype, int64_t rounds, int threads, double *operations);

/* Vector loads of the active ISA: each of `threads` threads reads a part of the buffer of its own `passes` times.
 * *read = bytes read in all. RV_ERR_SHAPE when a part is shorter than RV_PEAK_LEAST. The buffer must have been written:
 * untouched pages all lie in one place. x needs the alignment of a double, better that of a cache line. */
rv_status rv_peak_read(const void *x, int64_t bytes, int64_t passes, int threads, double *read);

#endif
