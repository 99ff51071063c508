#include "target.h"

#if RV_ARM64
#define RV_REAL_BITS 64
#define SUITE math_neon_f64
#define SUITE_ISA "neon"
#define SUITE_VEC "vec/neon.h"
#include "math_suite.inc"
#else
typedef int not_for_this_architecture;
#endif
