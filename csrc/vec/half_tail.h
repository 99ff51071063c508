/* Tails of 16-bit and 8-bit storage through a whole vector on the stack, where the ISA masks no such elements. */
RV_INLINE void copy_u16(uint16_t *dst, const uint16_t *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = src[i];
}
RV_INLINE vreal v_load_f16_tail(const uint16_t *p, int64_t n)
{
    uint16_t whole[RV_LANES] = {0};
    copy_u16(whole, p, n);
    return v_load_f16(whole);
}
RV_INLINE void v_store_f16_tail(uint16_t *p, vreal x, int64_t n)
{
    uint16_t whole[RV_LANES];
    v_store_f16(whole, x);
    copy_u16(p, whole, n);
}
RV_INLINE vreal v_load_bf16_tail(const uint16_t *p, int64_t n)
{
    uint16_t whole[RV_LANES] = {0};
    copy_u16(whole, p, n);
    return v_load_bf16(whole);
}
RV_INLINE void v_store_bf16_tail(uint16_t *p, vreal x, int64_t n)
{
    uint16_t whole[RV_LANES];
    v_store_bf16(whole, x);
    copy_u16(p, whole, n);
}
RV_INLINE vreal v_load_i8_tail(const int8_t *p, int64_t n)
{
    int8_t whole[RV_LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        whole[i] = p[i];
    return v_load_i8(whole);
}
