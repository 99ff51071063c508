#define RV_REAL_BITS 64
#define SUITE math_scalar_f64
#define SUITE_ISA "scalar"
#define SUITE_VEC "vec/scalar.h"
#include "math_suite.inc"
