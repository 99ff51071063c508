#include "target.h"

#if RV_X86
#define RV_REAL_BITS 32
#define SUITE math_avx2_f32
#define SUITE_ISA "avx2"
#define SUITE_VEC "vec/avx2.h"
#define SUITE_TARGET "avx2,fma,f16c"
#include "math_suite.inc"
#else
typedef int not_for_this_architecture;
#endif
