#include "../kernels.h"
#include "../scalar_math.h"
#include "../target.h"
#include <math.h>
#include <string.h>

#if RV_ARM64
#include <arm_neon.h>
#define RV_REAL_BITS 64
#define RV_TABLE rv_kernels_neon_f64
#include "../vec/neon.h"
#include "../vec/math.h"
#include "../kernels/table_inl.h"
#else
typedef int rv_not_for_this_architecture;
#endif
