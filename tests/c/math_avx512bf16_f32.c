#include "target.h"

#if RV_X86
#define RV_REAL_BITS 32
#define SUITE math_avx512bf16_f32
#define SUITE_ISA "avx512bf16"
#define SUITE_VEC "vec/avx512bf16.h"
#define SUITE_TARGET "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#include "math_suite.inc"
#else
typedef int not_for_this_architecture;
#endif
