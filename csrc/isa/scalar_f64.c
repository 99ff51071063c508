#include "../kernels.h"
#include "../scalar_math.h"
#include "../target.h"
#include <math.h>
#include <string.h>

#define RV_REAL_BITS 64
#define RV_TABLE rv_kernels_scalar_f64
#include "../vec/scalar.h"
#include "../vec/math.h"
#include "../kernels/table_inl.h"
