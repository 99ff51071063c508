#include "../kernels.h"
#include "../scalar_math.h"
#include "../target.h"
#include <math.h>
#include <string.h>

#if RV_X86
#include <immintrin.h>
#define RV_REAL_BITS 32
#define RV_TABLE rv_kernels_avx512bf16_f32
RV_TARGET_BEGIN("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include "../vec/avx512bf16.h"
#include "../vec/math.h"
#include "../kernels/table_inl.h"
RV_TARGET_END
#else
typedef int rv_not_for_this_architecture;
#endif
