#define RV_REAL_BITS 32
#define SUITE math_scalar_f32
#define SUITE_ISA "scalar"
#define SUITE_VEC "vec/scalar.h"
#include "math_suite.inc"
