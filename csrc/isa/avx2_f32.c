#include "../kernels.h"
#include "../scalar_math.h"
#include "../target.h"
#include <math.h>
#include <string.h>

#if RV_X86
#include <immintrin.h>
#define RV_REAL_BITS 32
#define RV_TABLE rv_kernels_avx2_f32
RV_TARGET_BEGIN("avx2,fma,f16c")
#include "../vec/avx2.h"
#include "../vec/math.h"
#include "../kernels/table_inl.h"
RV_TARGET_END
#else
typedef int rv_not_for_this_architecture;
#endif
