/* Rows on their way into a cache: copied, converted, or quantised to int8 with a scale a row. */
#include "kernels.h"

#include <float.h>
#include <string.h>

/* Elements of a row that are converted at a time. */
#define RV_ROW_CHUNK 512

/* n elements as floats: where they lie, or in `room`. */
static const float *floats(const rv_kernels *k, rv_dtype from, const char *row, int64_t n, float *room)
{
    if (from == RV_F32)
        return (const float *)(const void *)row;
    k->widen(from, row, room, n);
    return room;
}

/* The bits of the largest magnitude of n floats; from 0x7f800000 on, some are not finite. */
static uint32_t most_bits(const float *x, int64_t n)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

static float scale_of(float most)
{
    double exact = most / 127.0;
    float scale = (float)exact;
    /* a subnormal scale is coarse: rounded down, the largest code would lie above 127 */
    if (scale < FLT_MIN && scale < exact) {
        uint32_t bits;
        memcpy(&bits, &scale, sizeof bits);
        bits++;
        memcpy(&scale, &bits, sizeof bits);
    }
    return scale;
}

/* x / scale to the nearest integer, ties to even: 53 bits tell every quotient of two floats from a tie. */
static void codes_of(const float *x, int64_t n, float scale, int8_t *codes)
{
    const double magic = 6755399441055744.0;    /* 1.5 * 2^52 */
    for (int64_t i = 0; i < n; i++) {
        double rounded = (double)x[i] / (double)scale + magic;
        codes[i] = (int8_t)(int)(rounded - magic);
    }
}

static rv_status quantise(const rv_kernels *k, rv_dtype from, const char *row, int64_t columns, int8_t *codes, float *scale)
{
    float room[RV_ROW_CHUNK], most;
    int64_t item = (int64_t)rv_dtype_size(from);
    uint32_t bits = 0;
    for (int64_t c = 0; c < columns; c += RV_ROW_CHUNK) {
        int64_t n = columns - c < RV_ROW_CHUNK ? columns - c : RV_ROW_CHUNK;
        uint32_t chunk = most_bits(floats(k, from, row + c * item, n, room), n);
        bits = chunk > bits ? chunk : bits;
    }
    if (bits >= 0x7f800000)
        return RV_ERR_PARAM;
    memcpy(&most, &bits, sizeof most);
    *scale = scale_of(most);
    for (int64_t c = 0; c < columns; c += RV_ROW_CHUNK) {
        int64_t n = columns - c < RV_ROW_CHUNK ? columns - c : RV_ROW_CHUNK;
        if (*scale == 0)
            memset(codes + c, 0, (size_t)n);
        else
            codes_of(floats(k, from, row + c * item, n, room), n, *scale, codes + c);
    }
    return RV_OK;
}

static void convert(const rv_kernels *k, rv_dtype from, rv_dtype to, const char *row, int64_t columns, char *target)
{
    float room[RV_ROW_CHUNK];
    int64_t item = (int64_t)rv_dtype_size(from), size = (int64_t)rv_dtype_size(to);
    if (to == RV_F32) {
        k->widen(from, row, target, columns);
        return;
    }
    for (int64_t c = 0; c < columns; c += RV_ROW_CHUNK) {
        int64_t n = columns - c < RV_ROW_CHUNK ? columns - c : RV_ROW_CHUNK;
        k->narrow(to, floats(k, from, row + c * item, n, room), target + c * size, n);
    }
}

rv_status rv_rows_run(const rv_rows_args *a)
{
    const rv_kernels *k = rv_kernels_get(RV_F32);
    if (a->from < RV_F32 || a->from > RV_BF16 || a->to < RV_F32 || a->to > RV_I8)
        return RV_ERR_PARAM;
    if (a->from != a->to && (a->from == RV_F64 || a->to == RV_F64))
        return RV_ERR_PARAM;
    if (a->batch < 0 || a->heads < 0 || a->rows < 0 || a->columns < 0)
        return RV_ERR_SHAPE;
    size_t bytes = (size_t)a->columns * rv_dtype_size(a->to);
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->heads; h++) {
            const char *from = (const char *)a->source.data + b * a->source.batch_stride[0] + h * a->source.head_stride;
            char *to = (char *)a->target.data + b * a->target.batch_stride[0] + h * a->target.head_stride;
            float *scales = NULL;
            if (a->to == RV_I8)
                scales = (float *)(void *)((char *)a->scales.data + b * a->scales.batch_stride[0] + h * a->scales.head_stride);
            for (int64_t i = 0; i < a->rows; i++, from += a->source.row_stride, to += a->target.row_stride) {
                if (a->from == a->to) {
                    memcpy(to, from, bytes);
                } else if (a->to == RV_I8) {
                    rv_status status = quantise(k, a->from, from, a->columns, (int8_t *)to, scales + i);
                    if (status != RV_OK)
                        return status;
                } else {
                    convert(k, a->from, a->to, from, a->columns, to);
                }
            }
        }
    return RV_OK;
}
