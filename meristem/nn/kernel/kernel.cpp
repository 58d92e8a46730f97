// Products of few rows with a weight matrix, and one whole decoding step of a Llama-shaped network, on a CPU.
//
// A decoded token reads every weight once: the ceiling is memory bandwidth over weight bytes, and what stands between
// is the overhead of some 150 small operators. Here one call runs all layers inside one team of threads.
//
// Numbers: fp32 accumulation everywhere. With `half` set every intermediate result is rounded to bf16 where the torch
// path rounds it, so both differ by the order of sums only. The order of a sum depends on the matrix alone, never on
// the number of rows: a row decoded alone and the same row in a batch of 16 give the same bits.
//
// Weights: fp32 and bf16 lie row by row as torch keeps them. int8 and int4 lie in panels of 16 output rows:
//   int8  [rows/16][cols/4][16][4]    four columns side by side, signed
//   int4  [rows/16][cols/8][16] u32   nibble j is column j/2 (j even) or 4 + j/2 (j odd) of its eight; value = nibble - 8
// with bf16 scales (and optional bf16 offsets) [rows/16][groups][16]: weight = scale * q + low.
//
// GCC's and Clang's vector extensions are used throughout, so that it compiles for any processor. Where AVX512-BF16
// exists its dot product of bf16 pairs takes over (4 times the rate of fp32), and with `half` and AVX512-VNNI int8 and
// int4 weights are multiplied as integers: the activations of 32 columns become step * (256 high + low) with two signed
// bytes, which keeps 15 bits below their largest (bf16 keeps 8), and every sum of 32 products is exact.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
typedef float vf __attribute__((vector_size(64)));
typedef float vfu __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint32_t vuu __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(32)));
typedef uint16_t vhu __attribute__((vector_size(32), aligned(2), may_alias));
typedef int16_t vs __attribute__((vector_size(32)));
typedef uint8_t byte;
typedef int8_t vbu __attribute__((vector_size(16), aligned(1), may_alias));
typedef int64_t i64;

enum Kind : i64 { ABSENT = 0, FLOAT32 = 1, BFLOAT16 = 2, INT8 = 3, INT4 = 4 };

struct Matrix {                                                // mirrored by ctypes in __init__.py
    const void* data;
    const uint16_t *scale, *low;
    const float* bias;
    i64 rows, cols, group, kind;
};

struct Layer {
    const float *norm1, *norm2, *q_norm, *k_norm;
    Matrix q, k, v, o, gate, up, down;
    void *keys, *values;            // [B, groups, slots, head_dim] or [pages, groups, PAGE, head_dim], compute type
    i64 window, chunk, turned;                                 // reach; whether it has rotary positions
};

struct Update {                                                // scale * B A beside a weight; in the compute type:
    const void *a, *b;              // a [rank, cols], b [outs / 16][rank][16] or in bf16 [outs / 16][rank / 2][16][2]
    i64 rank;                                                  // 0: none
    float scale;
};

constexpr i64 PRODUCTS = 7;                                    // of a layer that may have one: q k v o gate up down

struct Network {
    Layer* layers;
    const float* norm;
    i64 count, dim, heads, groups, head_dim, hidden, slots, half;
    float scale, eps, head_eps;
    const i64* table;                                          // pages [B, width] of each row, or null: slots in a row
    i64 width;
    const Update* const* updates;                              // [B] of [count * PRODUCTS] or null, or null: no row's
    i64 rank;                                                  // the largest among them
};

constexpr i64 PAGE = 16;                                       // slots of a page: nn/paged.py, and one block of scores

inline vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
inline vf spread(float x) { return x - vf{}; }
inline vf widen(const uint16_t* p) {
    return (vf)(__builtin_convertvector((vh)*reinterpret_cast<const vhu*>(p), vu) << 16);
}
inline vf integers(const byte* p) {                             // 16 signed bytes
#ifdef __AVX512F__
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    vs words = __builtin_convertvector(*reinterpret_cast<const vbu*>(p), vs);     // by steps: GCC 12 leaves vectors else
    return __builtin_convertvector(__builtin_convertvector(words, vi), vf);
#endif
}
// Keep a loaded value in a register: GCC would load it again for every product.
#ifdef __AVX512F__
#define HELD(v) asm("" : "+v"(v))
#else
#define HELD(v)
#endif
// Keep a value out of registers, where others are needed more.
#define AWAY(v) asm("" : "+m"(v))
inline float widen1(uint16_t h) {
    uint32_t u = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline uint16_t narrow1(float f) {                             // nearest, ties to even; the default NaN stays a NaN
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline vh narrow(vf f) {
    vu u = (vu)f;
    return __builtin_convertvector((u + 0x7fff + (u >> 16 & 1)) >> 16, vh);
}
inline vf rounded(vf f) {
    vu u = (vu)f;
    return (vf)((u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u);
}
template <bool HALF> inline float rnd(float f) { return HALF ? widen1(narrow1(f)) : f; }
template <bool HALF> inline vf rnd(vf f) { return HALF ? rounded(f) : f; }

// One level of a tree of sums: lanes of a and b folded by `half` of what is left, so that 16 vectors end as 16 sums.
#define FOLD(a, b, ...) (__builtin_shufflevector(a, b, __VA_ARGS__))
inline vf fold8(vf a, vf b) {
    return FOLD(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           FOLD(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
inline vf fold4(vf a, vf b) {
    return FOLD(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           FOLD(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
inline vf fold2(vf a, vf b) {
    return FOLD(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           FOLD(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}
inline vf evens(vf a, vf b) { return FOLD(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30); }
inline vf odds(vf a, vf b) { return FOLD(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31); }
inline vf fold1(vf a, vf b) { return evens(a, b) + odds(a, b); }
inline void sums16(vf* a) {                                    // a[0][i] becomes the sum of the lanes of the old a[i]
    for (int i = 0; i < 8; i++) a[i] = fold8(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 4; i++) a[i] = fold4(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 2; i++) a[i] = fold2(a[2 * i], a[2 * i + 1]);
    a[0] = fold1(a[0], a[1]);
}
inline float total(vf a) {                                     // the same tree for one vector
    a = fold8(a, a), a = fold4(a, a), a = fold2(a, a);
    return a[0] + a[1];
}
inline vf exponential(vf x) {                                  // relative error 2e-7; Cephes' polynomial
    x = x < -87.f ? spread(-87.f) : x;
    x = x > 88.f ? spread(88.f) : x;
    vf n = (x * 1.44269504f + 12582912.f) - 12582912.f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f, p = p * r + 1.6666665459e-1f, p = p * r + 0.5f;
    p = p * r * r + r + 1.f;
    return (vf)((vi)p + (__builtin_convertvector(n, vi) << 23));
}

// ---- rows of fp32 or bf16 weights -----------------------------------------------------------------------------

struct Float32 {
    typedef float W;
    typedef float X;
    static constexpr int STEP = LANES;
    static vf w(const W* p) { return load(p); }
    static vf x(const X* p) { return load(p); }
    static void add(vf& a, vf w, vf x) { a += w * x; }
    static float one(W w, X x) { return w * x; }
};
struct Widened : Float32 {                                     // bf16 weights, fp32 activations
    typedef uint16_t W;
    static vf w(const W* p) { return widen(p); }
    static float one(W w, X x) { return widen1(w) * x; }
};
#ifdef __AVX512BF16__
struct Pairs {                                                 // bf16 weights, bf16 activations
    typedef uint16_t W;
    typedef uint16_t X;
    static constexpr int STEP = 2 * LANES;
    static __m512i w(const W* p) { return _mm512_loadu_si512(p); }
    static __m512i x(const X* p) { return _mm512_loadu_si512(p); }
    static void add(vf& a, __m512i w, __m512i x) { a = (vf)_mm512_dpbf16_ps((__m512)a, (__m512bh)w, (__m512bh)x); }
    static float one(W w, X x) { return widen1(w) * widen1(x); }
};
#endif

struct Block { float step; int32_t high, low; };               // of 32 (or 8) activations; what their sums start at
struct Input {                                                 // activations [rows, cols], also as a product wants them
    const float* f;
    i64 rows, cols;
    const uint16_t* b = nullptr;                               // bf16
    const float* sums = nullptr;                               // of each group of columns, for weights with offsets
    const uint32_t* lanes = nullptr;                           // pairs of bf16, rows side by side: `to_lanes`
    const byte* bytes = nullptr;                               // [rows][cols/4][high, low][4]
    const Block* blocks = nullptr;
    i64 block = 0, offset = 0;                                 // what `bytes` and `blocks` were made for
    template <class X> const X* as() const;
};
template <> inline const float* Input::as<float>() const { return f; }
template <> inline const uint16_t* Input::as<uint16_t>() const { return b; }

template <class K, int O, int R>
void tile(const typename K::W* w, const typename K::X* x, i64 cols, float* y, i64 stride, bool fresh) {
    vf a[O * R] = {};
    const auto* ahead = fresh ? w + O * cols : w;              // the next tile: rows are too short for the prefetcher
    i64 c = 0;
    for (; c + K::STEP <= cols; c += K::STEP) {
        decltype(K::x(x)) in[R];
        for (int r = 0; r < R; r++) {
            in[r] = K::x(x + r * cols + c);
            HELD(in[r]);
        }
        for (int o = 0; o < O; o++) {
            __builtin_prefetch(ahead + o * cols + c, 0, 2);
            auto weight = K::w(w + o * cols + c);
            HELD(weight);
            for (int r = 0; r < R; r++) K::add(a[o * R + r], weight, in[r]);
        }
    }
    float rest[O * R] = {};
    for (; c < cols; c++)
        for (int i = 0; i < O * R; i++) rest[i] += K::one(w[i / R * cols + c], x[i % R * cols + c]);
    if (O * R == 16) {
        sums16(a);
        for (int i = 0; i < O * R; i++) y[i % R * stride + i / R] = a[0][i] + rest[i];
    } else {
        for (int i = 0; i < O * R; i++) y[i % R * stride + i / R] = total(a[i]) + rest[i];
    }
}

template <class K, int O> void tiles(const typename K::W* w, const typename K::X* x, i64 cols, i64 rows, float* y, i64 stride) {
    i64 r = 0;
    for (; r + 4 <= rows; r += 4) tile<K, O, 4>(w, x + r * cols, cols, y + r * stride, stride, r == 0);
    x += r * cols, y += r * stride;
    if (rows - r == 3) tile<K, O, 3>(w, x, cols, y, stride, r == 0);
    if (rows - r == 2) tile<K, O, 2>(w, x, cols, y, stride, r == 0);
    if (rows - r == 1) tile<K, O, 1>(w, x, cols, y, stride, r == 0);
}

template <class K> void dense(const Matrix& m, const Input& in, i64 rows, float* y, i64 stride, i64 o, i64 end) {
    auto w = static_cast<const typename K::W*>(m.data);
    auto x = in.as<typename K::X>();
    if (rows == 1)
        for (; o + 8 <= end; o += 8) tile<K, 8, 1>(w + o * m.cols, x, m.cols, y + o, stride, true);
    for (; o + 4 <= end; o += 4) tiles<K, 4>(w + o * m.cols, x, m.cols, rows, y + o, stride);
    for (; o < end; o++) tiles<K, 1>(w + o * m.cols, x, m.cols, rows, y + o, stride);
}

// ---- panels of int8 or int4 weights ---------------------------------------------------------------------------
// `add` multiplies COLS columns of 16 outputs with each of R rows; N vectors of partial sums become 16 sums in `sum`.

struct Int8 {
    static constexpr int COLS = 4, N = 4, BYTES = 64, PANELS = 2;
    template <int R> static void add(vf (*a)[N], const byte* w, const float* x, i64 cols) {
        for (int i = 0; i < N; i++) {
            vf weight = integers(w + 16 * i);                  // of four outputs
            for (int r = 0; r < R; r++) a[r][i] += weight * four(x + r * cols);
        }
    }
    static vf four(const float* x) {                           // x0 x1 x2 x3 x0 ...
#ifdef __AVX512F__
        return (vf)_mm512_broadcast_f32x4(_mm_loadu_ps(x));
#else
        return vf{x[0], x[1], x[2], x[3], x[0], x[1], x[2], x[3], x[0], x[1], x[2], x[3], x[0], x[1], x[2], x[3]};
#endif
    }
    static vf sum(const vf* a) { return fold1(fold1(a[0], a[1]), fold1(a[2], a[3])); }
};
inline vf nibble(vu v, int j) {
#ifdef __AVX512F__
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return (vf)_mm512_permutexvar_ps((__m512i)(v >> (4 * j)), table);       // looks at the lowest 4 bits only
#else
    return __builtin_convertvector((vi)(v >> (4 * j) & 15), vf) - 8.f;
#endif
}
struct Int4 {
    static constexpr int COLS = 8, N = 1, BYTES = 64, PANELS = 8;
    template <int R> static void add(vf (*a)[N], const byte* w, const float* x, i64 cols) {
        vu v = *reinterpret_cast<const vuu*>(w);
        for (int j = 0; j < 8; j++) {
            vf weight = nibble(v, j);
            for (int r = 0; r < R; r++) a[r][0] += weight * x[r * cols + j / 2 + (j % 2) * 4];
        }
    }
    static vf sum(const vf* a) { return a[0]; }
};

template <class K, int P, int R>
void panel(const Matrix& m, const Input& in, i64 row, i64 first, float* y, i64 stride) {
    const i64 groups = m.cols / m.group, bytes = m.cols / K::COLS * K::BYTES;
    auto w = static_cast<const byte*>(m.data) + first * bytes;
    auto x = in.f + row * m.cols;
    const i64 ahead = row ? 0 : P * bytes;                     // the next panels, while these are read first
    vf all[P][R] = {};
    for (i64 g = 0; g < groups; g++) {
        vf sum[P][R][K::N] = {};
        for (i64 c = 0; c < m.group; c += K::COLS, w += K::BYTES, x += K::COLS)
            for (int p = 0; p < P; p++) {
                __builtin_prefetch(w + p * bytes + ahead, 0, 2);
                K::template add<R>(sum[p], w + p * bytes, x, m.cols);
            }
        for (int p = 0; p < P; p++) {
            const i64 at = ((first + p) * groups + g) * LANES;
            vf scale = widen(m.scale + at);
            for (int r = 0; r < R; r++) {
                all[p][r] += scale * K::sum(sum[p][r]);
                if (m.low) all[p][r] += widen(m.low + at) * in.sums[(row + r) * groups + g];
                if (P * R > 8) AWAY(all[p][r]);
            }
        }
    }
    for (int p = 0; p < P; p++) {
        const i64 o = (first + p) * LANES;
        for (int r = 0; r < R; r++)
            if (o + LANES <= m.rows) store(y + (row + r) * stride + o, all[p][r]);
            else for (i64 i = 0; o + i < m.rows; i++) y[(row + r) * stride + o + i] = all[p][r][i];
    }
}

template <class K, int P> void panels(const Matrix& m, const Input& in, i64 rows, float* y, i64 stride, i64 p) {
    i64 r = 0;
    for (; r + 4 <= rows; r += 4) panel<K, P, 4>(m, in, r, p, y, stride);
    if (r + 2 <= rows) panel<K, P, 2>(m, in, r, p, y, stride), r += 2;
    if (r < rows) panel<K, P, 1>(m, in, r, p, y, stride);
}

template <class K> void packed(const Matrix& m, const Input& in, i64 rows, float* y, i64 stride, i64 o, i64 end) {
    i64 p = o / LANES;
    const i64 last = (end + LANES - 1) / LANES;
    if (rows < 4)                                              // 8 sums in flight hide an addition's latency
        for (; p + K::PANELS <= last; p += K::PANELS) panels<K, K::PANELS>(m, in, rows, y, stride, p);
    for (; p + 2 <= last; p += 2) panels<K, 2>(m, in, rows, y, stride, p);
    for (; p < last; p++) panels<K, 1>(m, in, rows, y, stride, p);
}

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define WHOLE_NUMBERS
// The same with integers. The instruction multiplies unsigned by signed bytes, so a weight stands for itself + OFFSET,
// which the sums' starting values take off again.

struct Bytes8 {
    static constexpr int COLS = 4, OFFSET = 128;
    static void parts(const byte* w, __m512i* to) {
        to[0] = _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi32(int(0x80808080)));
    }
};
struct Bytes4 {
    static constexpr int COLS = 8, OFFSET = 8;
    static void parts(const byte* w, __m512i* to) {
        __m512i v = _mm512_loadu_si512(w), mask = _mm512_set1_epi32(0x0f0f0f0f);
        HELD(v);
        to[0] = _mm512_and_si512(v, mask), to[1] = _mm512_and_si512(_mm512_srli_epi32(v, 4), mask);
    }
};
inline __m512i four(const byte* x) {                           // four activations for all 16 outputs
    int32_t d;
    std::memcpy(&d, x, 4);
    return _mm512_set1_epi32(d);
}

constexpr i64 AHEAD = 4096;                                    // bytes: the processor's own prefetcher stops at a page

template <class K, int BLOCK, int P, int R>
void whole(const Matrix& m, const Input& in, i64 row, i64 first, float* y, i64 stride) {
    constexpr int PARTS = K::COLS / 4, STEPS = BLOCK / K::COLS;
    const i64 groups = m.cols / m.group, blocks = m.cols / BLOCK, each = m.group / BLOCK, wide = m.cols * 2;
    const i64 bytes = m.cols / K::COLS * 64, ahead = row ? 0 : P * bytes;
    auto w = static_cast<const byte*>(m.data) + first * bytes;
    auto x = in.bytes + row * wide;
    auto of = in.blocks + row * blocks;
    auto scale = m.scale + first * groups * LANES;
    vf all[P][R] = {};
    for (i64 b = 0, left = each; b < blocks; b++, of++) {
        __m512i high[P][R], low[P][R];
        for (int p = 0; p < P; p++)
            for (int r = 0; r < R; r++)
                high[p][r] = _mm512_set1_epi32(of[r * blocks].high), low[p][r] = _mm512_set1_epi32(of[r * blocks].low);
        for (int s = 0; s < STEPS; s++, w += 64) {
            __m512i part[P][PARTS];
            for (int p = 0; p < P; p++) {
                __builtin_prefetch(w + p * bytes + ahead, 0, 2);
                K::parts(w + p * bytes, part[p]);
            }
            for (int i = 0; i < PARTS; i++, x += 8)
                for (int r = 0; r < R; r++) {
                    __m512i h = four(x + r * wide), l = four(x + r * wide + 4);
                    if (P > 1) {
                        HELD(h);
                        HELD(l);
                    }
                    for (int p = 0; p < P; p++) {
                        high[p][r] = _mm512_dpbusd_epi32(high[p][r], part[p][i], h);
                        low[p][r] = _mm512_dpbusd_epi32(low[p][r], part[p][i], l);
                    }
                }
        }
        for (int p = 0; p < P; p++) {
            const vf unit = widen(scale + p * groups * LANES);
            for (int r = 0; r < R; r++) {                      // below 2^27: 32 products of 15 and 7 bits
                vf sum = (vf)_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[p][r], 8), low[p][r]));
                all[p][r] += unit * of[r * blocks].step * sum;
            }
        }
        if (--left == 0) scale += LANES, left = each;
    }
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++) {
            const i64 o = (first + p) * LANES;
            for (i64 g = 0; m.low && g < groups; g++)
                all[p][r] += widen(m.low + ((first + p) * groups + g) * LANES) * in.sums[(row + r) * groups + g];
            if (o + LANES <= m.rows) store(y + (row + r) * stride + o, all[p][r]);
            else for (i64 i = 0; o + i < m.rows; i++) y[(row + r) * stride + o + i] = all[p][r][i];
        }
}

template <class K, int BLOCK, int P> void wholes(const Matrix& m, const Input& in, float* y, i64 stride, i64 p) {
    i64 r = 0;
    for (; r + 4 <= in.rows; r += 4) whole<K, BLOCK, P, 4>(m, in, r, p, y, stride);
    if (r + 2 <= in.rows) whole<K, BLOCK, P, 2>(m, in, r, p, y, stride), r += 2;
    if (r < in.rows) whole<K, BLOCK, P, 1>(m, in, r, p, y, stride);
}

template <class K, int BLOCK> void every(const Matrix& m, const Input& in, float* y, i64 stride, i64 o, i64 end) {
    i64 p = o / LANES;
    const i64 last = (end + LANES - 1) / LANES;
    if (in.rows > 1)                                           // one row reads one stream: the fastest from memory
        for (; p + 2 <= last; p += 2) wholes<K, BLOCK, 2>(m, in, y, stride, p);
    for (; p < last; p++) wholes<K, BLOCK, 1>(m, in, y, stride, p);
}
#endif

// ---- one linear layer, the part of one thread -----------------------------------------------------------------

struct Range { i64 begin, end; };
Range part(i64 n, i64 unit, int thread, int threads) {         // whole units of outputs, split evenly
    const i64 units = (n + unit - 1) / unit;
    const i64 begin = units * thread / threads * unit, end = units * (thread + 1) / threads * unit;
    return {begin, end < n ? end : n};
}

struct Aligned {                                               // an array on a cache line, growing only
    float* data = nullptr;
    i64 size = 0;
    float* room(i64 n) {
        if (n > size) {
            ::operator delete(data, std::align_val_t(64));
            data = static_cast<float*>(::operator new(n * sizeof(float), std::align_val_t(64)));
            size = n;
        }
        return data;
    }
    ~Aligned() { ::operator delete(data, std::align_val_t(64)); }
};

struct Space {                                                 // what a thread keeps to itself
    Aligned pairs, lanes, bytes, blocks, normed, other, scores;
    std::vector<float> sums;
};

#ifdef __AVX512BF16__
void to_pairs(Input& in, Space& own) {
    const i64 n = in.rows * in.cols;
    auto to = reinterpret_cast<uint16_t*>(own.pairs.room((n + 1) / 2));
    i64 i = 0;
    for (; i + LANES <= n; i += LANES) *reinterpret_cast<vhu*>(to + i) = narrow(load(in.f + i));
    for (; i < n; i++) to[i] = narrow1(in.f[i]);
    in.b = to;
}
#endif

#ifdef __AVX512BF16__
// Products of many rows: rows lie across the lanes and each pair of weights is spread over them, so that no sum crosses
// lanes and a register of weights serves 16 rows. The sums are those of `tile` to the bit: 16 partial sums, each of every
// sixteenth pair of columns, folded as `sums16` folds lanes.

constexpr i64 MANY = 14;                                       // rows from which this is faster
constexpr int FOLDS[LANES] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

inline i64 together(i64 vectors) { return vectors > 1 ? 2 : 1; }        // vectors of rows a tile takes: 3 are slower

inline void transpose(__m512i* r) {                            // 16 x 16 numbers
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2)
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}

// For each block of V vectors of rows: [n][cols / 32][16 V], the pair of columns 32 j + 2 FOLDS[n] of each row.
void to_lanes(Input& in, Space& own) {
    const i64 vectors = (in.rows + LANES - 1) / LANES, steps = in.cols / 32;
    auto to = reinterpret_cast<uint32_t*>(own.lanes.room(vectors * LANES * in.cols / 2));
    in.lanes = to;
    for (i64 v = 0, take; v < vectors; v += take, to += take * LANES * in.cols / 2) {
        take = together(vectors - v);
        for (i64 t = 0; t < take; t++)
            for (i64 j = 0; j < steps; j++) {
                __m512i pairs[LANES];
                for (i64 i = 0; i < LANES; i++) {
                    const i64 r = (v + t) * LANES + i;
                    const float* from = in.f + r * in.cols + 32 * j;
                    pairs[i] = r >= in.rows ? _mm512_setzero_si512()
                        : (__m512i)_mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from));
                }
                transpose(pairs);
                for (i64 i = 0; i < LANES; i++)
                    _mm512_store_si512(to + ((i * steps + j) * take + t) * LANES, pairs[FOLDS[i]]);
            }
    }
}

template <int O, int V>                                        // y [O][16 V]
void across(const uint16_t* w, i64 cols, const uint32_t* x, float* y, const uint16_t* ahead) {
    alignas(64) float kept[4][O * V * LANES];                  // halves of a fold that wait for the other one
    const i64 steps = cols / 32;
    __m512 a[O * V];
    const uint32_t* in = x;
    for (int n = 0; n < LANES; n++) {
        const uint16_t* at = w + 2 * FOLDS[n];
        for (auto& one : a) one = _mm512_setzero_ps();
        for (i64 j = 0; j < steps; j++, at += 32, in += V * LANES) {
            __m512i row[V];
            for (int v = 0; v < V; v++) {
                row[v] = _mm512_load_si512(in + v * LANES);
                HELD(row[v]);
            }
            for (int o = 0; o < O; o++) {
                int32_t pair;
                std::memcpy(&pair, at + o * cols, 4);
                __m512i weight = _mm512_set1_epi32(pair);
                if (V > 1) HELD(weight);
                for (int v = 0; v < V; v++)
                    a[o * V + v] = _mm512_dpbf16_ps(a[o * V + v], (__m512bh)row[v], (__m512bh)weight);
            }
        }
        if (ahead)
            for (i64 line = O * steps * n / LANES; line < O * steps * (n + 1) / LANES; line++)
                __builtin_prefetch(ahead + 32 * line, 0, 3);
        int level = 0;
        for (; n >> level & 1; level++)
            for (int i = 0; i < O * V; i++) a[i] = _mm512_add_ps(_mm512_load_ps(kept[level] + i * LANES), a[i]);
        if (level < 4)
            for (int i = 0; i < O * V; i++) _mm512_store_ps(kept[level] + i * LANES, a[i]);
    }
    for (int i = 0; i < O * V; i++) _mm512_store_ps(y + i * LANES, a[i]);
}

template <int V>
void across_panel(const uint16_t* w, i64 live, i64 cols, const uint32_t* x, float* y, bool ahead) {
    constexpr int O = 8;                                       // 16 sums in flight; with 24 it is slower
    i64 o = 0;
    for (; o + O <= live; o += O)
        across<O, V>(w + o * cols, cols, x, y + o * V * LANES, ahead ? w + (o + O) * cols : nullptr);
    for (; o < live; o++) across<1, V>(w + o * cols, cols, x, y + o * V * LANES, nullptr);
}

void across_rows(const Matrix& m, Input& in, float* y, i64 stride, Range o, Space& own) {
    alignas(64) float sums[LANES * 2 * LANES];
    if (!in.lanes) to_lanes(in, own);
    const i64 vectors = (in.rows + LANES - 1) / LANES, cols = m.cols;
    for (i64 p = o.begin; p < o.end; p += LANES) {
        const i64 live = std::min<i64>(LANES, o.end - p);
        auto w = static_cast<const uint16_t*>(m.data) + p * cols;
        for (i64 v = 0, take; v < vectors; v += take) {
            take = together(vectors - v);
            auto x = in.lanes + v * LANES * cols / 2;
            const bool ahead = v == 0 && p + 2 * LANES <= m.rows;                  // the next tile, while this one is read
            if (take == 2) across_panel<2>(w, live, cols, x, sums, ahead);
            else across_panel<1>(w, live, cols, x, sums, ahead);
            for (i64 t = 0; t < take; t++) {
                const i64 first = (v + t) * LANES, count = std::min<i64>(LANES, in.rows - first);
                __m512i block[LANES] = {};
                for (i64 i = 0; i < live; i++) block[i] = _mm512_load_si512(sums + (i * take + t) * LANES);
                transpose(block);
                vf bias = {};
                for (i64 i = 0; m.bias && i < live; i++) bias[i] = m.bias[p + i];
                for (i64 r = 0; r < count; r++) {
                    const vf value = rounded((vf)block[r] + bias);
                    float* to = y + (first + r) * stride + p;
                    if (live == LANES) store(to, value);
                    else for (i64 i = 0; i < live; i++) to[i] = value[i];
                }
            }
        }
    }
}
#endif

#ifdef WHOLE_NUMBERS
inline vf some(const float* x, i64 block) {                    // 16 activations, or 8 and zeros
    return (vf)_mm512_maskz_loadu_ps(block == 8 ? 0xff : 0xffff, x);
}
void to_bytes(Input& in, i64 block, i64 offset, Space& own) {
    constexpr float MOST = 32512;                              // 127 * 256: the high byte stays a signed one
    const i64 n = in.rows * in.cols;
    auto to = reinterpret_cast<byte*>(own.bytes.room(n / 2));
    auto of = reinterpret_cast<Block*>(own.blocks.room(n / block * sizeof(Block) / sizeof(float)));
    for (i64 b = 0; b < n / block; b++) {
        vf most = {}, odd = {};
        for (i64 i = 0; i < block; i += LANES) {
            const vf v = some(in.f + b * block + i, block);
            most = _mm512_max_ps(most, _mm512_abs_ps(v)), odd += v * 0.f;       // not a number where one is not finite
        }
        const float top = _mm512_reduce_max_ps(most) + total(odd);
        const vf back = spread(top > 1e-30f ? MOST / top : 0.f);
        __m512i highs = {}, lows = {};
        for (i64 i = 0; i < block; i += LANES) {
            const __m512i q = _mm512_cvtps_epi32(some(in.f + b * block + i, block) * back);        // nearest
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
            const __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 8));
            const __m128i h = _mm512_cvtepi32_epi8(high), l = _mm512_cvtepi32_epi8(low);
            auto at = reinterpret_cast<__m128i*>(to + (b * block + i) * 2);
            _mm_storeu_si128(at, _mm_unpacklo_epi32(h, l));
            if (block > 8) _mm_storeu_si128(at + 1, _mm_unpackhi_epi32(h, l));
            highs = _mm512_add_epi32(highs, high), lows = _mm512_add_epi32(lows, low);
        }
        of[b] = {top / MOST, int32_t(-offset * _mm512_reduce_add_epi32(highs)),
                 int32_t(-offset * _mm512_reduce_add_epi32(lows))};
    }
    in.bytes = to, in.blocks = of, in.block = block, in.offset = offset;
}

template <class K> void integral(const Matrix& m, Input& in, float* y, i64 stride, Range o, Space& own) {
    const i64 block = m.group % 32 ? 8 : 32;
    if (in.block != block || in.offset != K::OFFSET) to_bytes(in, block, K::OFFSET, own);
    if (block == 32) every<K, 32>(m, in, y, stride, o.begin, o.end);
    else every<K, 8>(m, in, y, stride, o.begin, o.end);
}
#endif

template <bool HALF> void linear(const Matrix& m, Input& in, float* y, i64 stride, Range o, Space& own) {
    if (o.begin >= o.end) return;
    const i64 rows = in.rows;
    if (m.low) {
        own.sums.assign(rows * (m.cols / m.group), 0.f);
        for (i64 i = 0; i < rows * m.cols; i++) own.sums[i / m.group] += in.f[i];
        in.sums = own.sums.data();
    }
    switch (m.kind) {
        case FLOAT32: dense<Float32>(m, in, rows, y, stride, o.begin, o.end); break;
        case BFLOAT16:
#ifdef __AVX512BF16__
            if (HALF && rows >= MANY && m.cols % 32 == 0) {
                across_rows(m, in, y, stride, o, own);         // rounded, with its bias
                return;
            }
            if (HALF) {
                if (!in.b) to_pairs(in, own);
                dense<Pairs>(m, in, rows, y, stride, o.begin, o.end);
                break;
            }
#endif
            dense<Widened>(m, in, rows, y, stride, o.begin, o.end);
            break;
#ifdef WHOLE_NUMBERS
        case INT8: HALF ? integral<Bytes8>(m, in, y, stride, o, own)
                        : packed<Int8>(m, in, rows, y, stride, o.begin, o.end); break;
        case INT4: HALF ? integral<Bytes4>(m, in, y, stride, o, own)
                        : packed<Int4>(m, in, rows, y, stride, o.begin, o.end); break;
#else
        case INT8: packed<Int8>(m, in, rows, y, stride, o.begin, o.end); break;
        case INT4: packed<Int4>(m, in, rows, y, stride, o.begin, o.end); break;
#endif
    }
    if (m.bias || HALF)
        for (i64 r = 0; r < rows; r++)
            for (i64 i = o.begin; i < o.end; i++)
                y[r * stride + i] = rnd<HALF>(y[r * stride + i] + (m.bias ? m.bias[i] : 0.f));
}

// ---- the rest of a layer --------------------------------------------------------------------------------------

template <bool HALF> void rms_norm(const float* x, const float* weight, i64 n, float eps, float* y) {
    float square = 0;
    i64 i = 0;
    vf squares = {};
    for (; i + LANES <= n; i += LANES) squares += load(x + i) * load(x + i);
    for (square = total(squares); i < n; i++) square += x[i] * x[i];
    const float r = 1.f / std::sqrt(square / float(n) + eps);
    for (i = 0; i + LANES <= n; i += LANES)
        store(y + i, rnd<HALF>(load(weight + i) * rnd<HALF>(load(x + i) * r)));
    for (; i < n; i++) y[i] = rnd<HALF>(weight[i] * rnd<HALF>(x[i] * r));
}

struct Rope {                                                  // cosines [count, n], then sines; token r's row of it
    const float* table;
    const i64* places;
    i64 count, n;
    template <bool HALF> void turn(float* x, i64 r) const {
        const float *cosine = table + places[r] * n, *sine = cosine + count * n;
        i64 i = 0;
        for (; i + LANES <= n / 2; i += LANES) {
            const vf a = load(x + i), b = load(x + i + n / 2);
            store(x + i, rnd<HALF>(a * load(cosine + i) - b * load(sine + i)));
            store(x + i + n / 2, rnd<HALF>(b * load(cosine + i + n / 2) + a * load(sine + i + n / 2)));
        }
        for (; i < n / 2; i++) {                               // pairs (i, i + n/2)
            const float a = x[i], b = x[i + n / 2];
            x[i] = rnd<HALF>(a * cosine[i] - b * sine[i]);
            x[i + n / 2] = rnd<HALF>(b * cosine[i + n / 2] + a * sine[i + n / 2]);
        }
    }
};

inline vf key(const float* p) { return load(p); }
inline vf key(const uint16_t* p) { return widen(p); }
inline float key1(float f) { return f; }
inline float key1(uint16_t h) { return widen1(h); }

template <class T> float dot(const float* q, const T* k, i64 n) {
    vf a = {};
    i64 i = 0;
    for (; i + LANES <= n; i += LANES) a += load(q + i) * key(k + i);
    float rest = 0;
    for (; i < n; i++) rest += q[i] * key1(k[i]);
    return total(a) + rest;
}

template <class T> vf dots(const float* q, const T* k, i64 n) {  // the same of 16 keys one after another; n % 16 is 0
    vf a[LANES] = {};
    for (i64 i = 0; i < n; i += LANES) {
        const vf part = load(q + i);
        for (int l = 0; l < LANES; l++) a[l] += part * key(k + l * n + i);
    }
    sums16(a);
    return a[0];
}

// A query beside one key, or 16 that lie one after the other: a score has the same bits.
template <class T> struct Query {
    const float* q;
    i64 n;
    Query(const float* q, i64 n) : q(q), n(n) {}
    float one(const T* k) const { return dot(q, k, n); }
    vf sixteen(const T* k) const { return dots(q, k, n); }
};
#ifdef __AVX512BF16__
template <> struct Query<uint16_t> {                           // bf16 queries (they were rounded) and keys, in pairs
    static constexpr i64 WIDTH = 256;
    const float* q;
    i64 n;
    bool pairs;
    __m512bh half[WIDTH / 32];
    Query(const float* q, i64 n) : q(q), n(n), pairs(n % 32 == 0 && n <= WIDTH) {
        for (i64 i = 0; pairs && i < n; i += 32)
            half[i / 32] = _mm512_cvtne2ps_pbh((__m512)load(q + i + LANES), (__m512)load(q + i));
    }
    vf add(vf a, const uint16_t* k, i64 i) const {
        return (vf)_mm512_dpbf16_ps((__m512)a, half[i / 32], (__m512bh)_mm512_loadu_si512(k + i));
    }
    float one(const uint16_t* k) const {
        if (!pairs) return dot(q, k, n);
        vf a = {};
        for (i64 i = 0; i < n; i += 32) a = add(a, k, i);
        return total(a);
    }
    vf sixteen(const uint16_t* k) const {
        if (!pairs) return dots(q, k, n);
        vf a[LANES] = {};
        for (i64 i = 0; i < n; i += 32)
            for (int l = 0; l < LANES; l++) a[l] = add(a[l], k + l * n, i);
        sums16(a);
        return a[0];
    }
};
#endif

// Where the keys or values of a row's slots lie: one after the other, or in pages.
template <class T> struct Flat {
    const T* base;
    i64 n;
    const T* operator()(i64 j) const { return base + j * n; }
    bool block(i64) const { return true; }                     // whether 16 slots from j on lie one after the other
    static constexpr bool WHOLE = false;                       // and whether they do where fewer are asked for
};
template <class T> struct Leaves {
    const T* base;
    const i64* table;
    i64 first, groups, g, n;
    const T* operator()(i64 j) const {
        const i64 p = first + j;
        return base + ((table[p / PAGE] * groups + g) * PAGE + p % PAGE) * n;
    }
    bool block(i64 j) const { return (first + j) % PAGE == 0; }
    static constexpr bool WHOLE = true;
};

// Have 16 slots in the cache when they are needed: pages lie apart, and many texts' keys are more than the caches hold.
template <class T> inline void fetch(const T* page, i64 n) {
    for (i64 line = 0; line < LANES * n * i64(sizeof(T)); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(page) + line, 0, 3);
}

// y = softmax(scale q K^T) V over `count` slots of one head
template <bool HALF, class T, class At>
void attend(const float* q, const At k, const At v, i64 n, i64 count, float scale, float* y, Space& own) {
    const i64 whole = (count + LANES - 1) / LANES * LANES;
    const Query<T> query(q, n);
    float* s = own.scores.room(whole + LANES);
    i64 j = 0;
    for (; j < count && !k.block(j); j++) s[j] = query.one(k(j)) * scale;
    if (n % LANES == 0)
        for (; j + (At::WHOLE ? 1 : LANES) <= count; j += LANES) {
            if (At::WHOLE && j + LANES < count) fetch(k(j + LANES), n);
            if (At::WHOLE) fetch(v(j), n);
            store(s + j, query.sixteen(k(j)) * scale);
        }
    for (; j < count; j++) s[j] = query.one(k(j)) * scale;
    for (j = count; j < whole; j++) s[j] = -INFINITY;
    vf tops = spread(-INFINITY);
    for (j = 0; j < whole; j += LANES) tops = load(s + j) > tops ? load(s + j) : tops;
    float most = tops[0];
    for (int l = 1; l < LANES; l++) most = tops[l] > most ? tops[l] : most;
    vf sum = {};
    for (j = 0; j < whole; j += LANES) {
        vf e = exponential(load(s + j) - most);
        if (j + LANES > count)
            for (int l = 0; l < LANES; l++) if (j + l >= count) e[l] = 0.f;
        store(s + j, e);
        sum += e;
    }
    const float share = 1.f / total(sum);
    i64 i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        vf a[4] = {};
        for (j = 0; j < count; j++) {
            const auto value = v(j) + i;
            for (int l = 0; l < 4; l++) a[l] += s[j] * key(value + l * LANES);
        }
        for (int l = 0; l < 4; l++) store(y + i + l * LANES, rnd<HALF>(a[l] * share));
    }
    for (; i < n; i++) {
        float a = 0;
        for (j = 0; j < count; j++) a += s[j] * key1(v(j)[i]);
        y[i] = rnd<HALF>(a * share);
    }
}

// The same for one head of one row of the caches: slots [first, last] of key/value head g.
template <bool HALF, class T>
void see(const Network& net, const T* k, const T* v, const float* q, i64 row, i64 g, i64 first, i64 last, float* y,
         Space& own) {
    const i64 n = net.head_dim, count = last - first + 1;
    if (net.table) {
        const i64* table = net.table + row * net.width;
        attend<HALF, T>(q, Leaves<T>{k, table, first, net.groups, g, n}, Leaves<T>{v, table, first, net.groups, g, n}, n,
                     count, net.scale, y, own);
    } else {
        const i64 at = ((row * net.groups + g) * net.slots + first) * n;
        attend<HALF, T>(q, Flat<T>{k + at, n}, Flat<T>{v + at, n}, n, count, net.scale, y, own);
    }
}

inline void put(float* to, const float* from, i64 n) { std::memcpy(to, from, n * sizeof(float)); }
inline void put(uint16_t* to, const float* from, i64 n) {
    for (i64 i = 0; i < n; i++) to[i] = narrow1(from[i]);
}

// ---- low-rank updates, each row of a batch with its own -------------------------------------------------------

template <bool HALF> void shrink(const Update& u, Input& in, float* h, Space& own) {       // h = A x, one row
    const Matrix a{u.a, nullptr, nullptr, nullptr, u.rank, in.cols, 0, HALF ? BFLOAT16 : FLOAT32};
    linear<HALF>(a, in, h, u.rank, {0, u.rank}, own);
}

template <bool HALF> void expand(const Update& u, const float* h, Range o, float* y) {     // y[o] += scale * B h
    for (i64 p = o.begin; p < o.end; p += LANES) {
        vf sum = {};
        if (HALF) {
            auto b = static_cast<const uint16_t*>(u.b) + p * u.rank;
            for (i64 j = 0; j < u.rank; j += 2) {
                const vu pair = *reinterpret_cast<const vuu*>(b + j * LANES);
                sum += (vf)(pair << 16) * h[j];
                sum += (vf)(pair & 0xffff0000u) * h[j + 1];
            }
        } else {
            auto b = static_cast<const float*>(u.b) + p * u.rank;
            for (i64 j = 0; j < u.rank; j++) sum += load(b + j * LANES) * h[j];
        }
        const vf more = rnd<HALF>(u.scale * rnd<HALF>(sum));
        if (p + LANES <= o.end) store(y + p, rnd<HALF>(load(y + p) + more));
        else for (i64 i = p; i < o.end; i++) y[i] = rnd<HALF>(y[i] + more[i - p]);
    }
}

struct Low {                                                   // the rows that have updates, those of one adapter together
    const i64* rows;
    i64 count;
    float* h;                                                  // A x [rows, 3, rank]: three products read the same x
};
struct Buffers { float *x, *q, *k, *v, *y, *hidden; };

template <bool HALF, class T>
void run(const Network& net, const Buffers& at, const i64* positions, const Rope& rope, const Low& low, i64 rows,
         i64 each, int thread, int threads) {
    static thread_local Space own;
    const i64 d = net.dim, n = net.head_dim, wide = net.heads * n, narrow_ = net.groups * n;
    const bool apart = net.groups % threads == 0 && narrow_ % (LANES * threads) == 0;      // each has its own heads
    float* const normed = own.normed.room(rows * d);
    auto norm = [&](const float* weight) {                     // every thread for itself: cheaper than waiting
        for (i64 r = 0; r < rows; r++) rms_norm<HALF>(at.x + r * d, weight, d, net.eps, normed + r * d);
        return Input{normed, rows, d};
    };
    // The threads share out the rows' A x, then each adds B of it to its own outputs. Before `linear`: both use `own`.
    auto narrowed = [&](i64 slot, i64 products, const float* x, i64 cols) {
        const Range mine = part(low.count * products, 1, thread, threads);
        Input in{};
        for (i64 i = mine.begin; i < mine.end; i++) {
            const i64 r = low.rows[i / products], p = i % products;
            if (p == 0 || i == mine.begin) in = Input{x + r * cols, 1, cols};
            const Update& u = net.updates[r / each][slot + p];
            if (u.rank) shrink<HALF>(u, in, low.h + (r * 3 + p) * net.rank, own);
        }
    };
    auto widened = [&](i64 slot, i64 p, float* y, i64 stride, Range o) {
        for (i64 i = 0; i < low.count; i++) {
            const i64 r = low.rows[i];
            const Update& u = net.updates[r / each][slot + p];
            if (u.rank) expand<HALF>(u, low.h + (r * 3 + p) * net.rank, o, y + r * stride);
        }
    };
    auto ready = [&] {                                         // all rows' A x are there
        if (low.count) {
#pragma omp barrier
        }
    };
    auto residual = [&](const Matrix& m, const float* from, i64 slot) {
        const Range o = part(d, LANES, thread, threads);
        Input in{from, rows, m.cols};
        narrowed(slot, 1, from, m.cols);
        linear<HALF>(m, in, normed, d, o, own);
        ready();
        widened(slot, 0, normed, d, o);
        for (i64 r = 0; r < rows; r++)
            for (i64 i = o.begin; i < o.end; i++)
                at.x[r * d + i] = rnd<HALF>(at.x[r * d + i] + normed[r * d + i]);
#pragma omp barrier
    };
    for (i64 l = 0; l < net.count; l++) {
        const Layer& layer = net.layers[l];
        const i64 slot = l * PRODUCTS;
        const Range broad = part(wide, LANES, thread, threads), thin = part(narrow_, LANES, thread, threads);
        Input in = norm(layer.norm1);
        narrowed(slot, 3, normed, d);
        linear<HALF>(layer.q, in, at.q, wide, broad, own);
        linear<HALF>(layer.k, in, at.k, narrow_, thin, own);
        linear<HALF>(layer.v, in, at.v, narrow_, thin, own);
        ready();
        widened(slot, 0, at.q, wide, broad);
        widened(slot, 1, at.k, narrow_, thin);
        widened(slot, 2, at.v, narrow_, thin);
        if (!apart) {
#pragma omp barrier
        }
        const Range written = part(rows * net.groups, 1, thread, threads);
        for (i64 i = written.begin; i < written.end; i++) {
            const i64 g = i / rows, r = i % rows, p = positions[r];
            const i64 slot = net.table
                ? (net.table[r / each * net.width + p / PAGE] * net.groups + g) * PAGE + p % PAGE
                : ((r / each) * net.groups + g) * net.slots + p;
            float *k = at.k + r * narrow_ + g * n, *v = at.v + r * narrow_ + g * n;
            if (layer.k_norm) rms_norm<HALF>(k, layer.k_norm, n, net.head_eps, k);
            if (layer.turned) rope.turn<HALF>(k, r);
            put(static_cast<T*>(layer.keys) + slot * n, k, n);
            put(static_cast<T*>(layer.values) + slot * n, v, n);
        }
        if (!apart) {
#pragma omp barrier
        }
        // A text's heads one after another: they lie side by side in its pages. Of each its own part, or of all tokens.
        const Range mine = apart ? part(net.heads, 1, thread, threads) : Range{0, net.heads};
        const i64 count = mine.end - mine.begin;
        const Range seen = apart ? Range{0, rows * count} : part(rows * count, 1, thread, threads);
        for (i64 i = seen.begin; i < seen.end; i++) {
            const i64 r = i / count, h = mine.begin + i % count, g = h / (net.heads / net.groups), p = positions[r];
            i64 first = layer.window && p >= layer.window ? p - layer.window + 1 : 0;
            if (layer.chunk && p / layer.chunk * layer.chunk > first) first = p / layer.chunk * layer.chunk;
            float* q = at.q + r * wide + h * n;
            if (layer.q_norm) rms_norm<HALF>(q, layer.q_norm, n, net.head_eps, q);
            if (layer.turned) rope.turn<HALF>(q, r);
            see<HALF>(net, static_cast<const T*>(layer.keys), static_cast<const T*>(layer.values), q, r / each, g,
                      first, p, at.y + r * wide + h * n, own);
        }
#pragma omp barrier
        residual(layer.o, at.y, slot + 3);
        in = norm(layer.norm2);
        const Range h = part(net.hidden, LANES, thread, threads);
        float* const up = own.other.room(rows * net.hidden);
        narrowed(slot + 4, 2, normed, d);
        linear<HALF>(layer.gate, in, at.hidden, net.hidden, h, own);
        linear<HALF>(layer.up, in, up, net.hidden, h, own);
        ready();
        widened(slot + 4, 0, at.hidden, net.hidden, h);
        widened(slot + 4, 1, up, net.hidden, h);
        for (i64 r = 0; r < rows; r++) {
            float *gate = at.hidden + r * net.hidden, *other = up + r * net.hidden;
            i64 i = h.begin;
            for (; i + LANES <= h.end; i += LANES) {
                const vf z = load(gate + i);
                store(gate + i, rnd<HALF>(rnd<HALF>(z / (1.f + exponential(-z))) * load(other + i)));
            }
            if (i < h.end) {
                const int live = int(h.end - i);
                float a[LANES] = {}, b[LANES] = {};
                std::memcpy(a, gate + i, live * 4), std::memcpy(b, other + i, live * 4);
                vf z = load(a);
                store(a, rnd<HALF>(rnd<HALF>(z / (1.f + exponential(-z))) * load(b)));
                std::memcpy(gate + i, a, live * 4);
            }
        }
#pragma omp barrier
        residual(layer.down, at.hidden, slot + 6);
    }
    const Range mine = part(rows, 1, thread, threads);
    for (i64 r = mine.begin; r < mine.end; r++) rms_norm<HALF>(at.x + r * d, net.norm, d, net.eps, at.q + r * d);
}

}  // namespace

// The last layer's normalised output of `rows` tokens into x [rows, dim] (in: their embeddings); `each` of them belong
// to one row of the caches; rope [2, count, turned], of which token r uses row places[r]. The first of `positions`
// that has no slot, or -1 when all is done.
extern "C" i64 meristem_step(const Network* net, float* x, const i64* positions, const float* rope, const i64* places,
                             i64 count, i64 turned, i64 rows, i64 each, int threads) {
    for (i64 r = 0; r < rows; r++)
        if (positions[r] < 0 || positions[r] >= net->slots) return r;
    static thread_local Aligned space;
    static thread_local std::vector<i64> adapted;
    adapted.clear();
    if (net->updates) {
        for (i64 r = 0; r < rows; r++) if (net->updates[r / each]) adapted.push_back(r);
        std::stable_sort(adapted.begin(), adapted.end(),
                         [&](i64 a, i64 b) { return net->updates[a / each] < net->updates[b / each]; });
    }
    const i64 wide = net->heads * net->head_dim, thin = net->groups * net->head_dim;
    const i64 most = wide > net->dim ? wide : net->dim;
    const i64 need = rows * (2 * most + 2 * thin + net->hidden + 3 * net->rank);
    float* q = space.room(need);
    float *k = q + rows * most, *v = k + rows * thin, *y = v + rows * thin, *hidden = y + rows * most;
    const Buffers at{x, q, k, v, y, hidden};
    const Rope turns{rope, places, count, turned};
    const Low low{adapted.data(), i64(adapted.size()), hidden + rows * net->hidden};
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        const int thread = omp_get_thread_num(), all = omp_get_num_threads();
#else
        const int thread = 0, all = 1;
#endif
        if (net->half) run<true, uint16_t>(*net, at, positions, turns, low, rows, each, thread, all);
        else run<false, float>(*net, at, positions, turns, low, rows, each, thread, all);
    }
    std::memcpy(x, q, rows * net->dim * sizeof(float));
    return -1;
}

// Attention alone: y [rows, heads, head_dim] of queries q that stand at `positions` of their rows of the caches.
extern "C" void meristem_see(const Network* net, const Layer* layer, const float* q, const i64* positions, float* y,
                             i64 rows, i64 each, int threads) {
    const i64 n = net->head_dim;
#pragma omp parallel for num_threads(threads)
    for (i64 i = 0; i < rows * net->heads; i++) {
        static thread_local Space own;
        const i64 h = i / rows, r = i % rows, g = h / (net->heads / net->groups), p = positions[r];
        i64 first = layer->window && p >= layer->window ? p - layer->window + 1 : 0;
        if (layer->chunk && p / layer->chunk * layer->chunk > first) first = p / layer->chunk * layer->chunk;
        const float* one = q + (r * net->heads + h) * n;
        float* out = y + (r * net->heads + h) * n;
        if (net->half) see<true>(*net, static_cast<const uint16_t*>(layer->keys),
                                 static_cast<const uint16_t*>(layer->values), one, r / each, g, first, p, out, own);
        else see<false>(*net, static_cast<const float*>(layer->keys), static_cast<const float*>(layer->values), one,
                        r / each, g, first, p, out, own);
    }
}

// y [rows, outs] += scale * B A x [rows, cols]; `each` rows one after another have updates[row / each][slot] (or null)
extern "C" void meristem_low_rank(const float* x, float* y, i64 rows, i64 each, i64 cols, i64 outs,
                                  const Update* const* updates, i64 slot, i64 half, int threads) {
#pragma omp parallel for num_threads(threads)
    for (i64 r = 0; r < rows; r++) {
        static thread_local Space own;
        if (!updates[r / each] || !updates[r / each][slot].rank) continue;
        const Update& u = updates[r / each][slot];
        Input in{x + r * cols, 1, cols};
        float* h = own.scores.room(u.rank);
        if (half) shrink<true>(u, in, h, own), expand<true>(u, h, {0, outs}, y + r * outs);
        else shrink<false>(u, in, h, own), expand<false>(u, h, {0, outs}, y + r * outs);
    }
}

// y [rows, m.rows] = x [rows, m.cols] W^T + bias
extern "C" void meristem_product(const Matrix* m, const float* x, float* y, i64 rows, i64 half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        static thread_local Space own;
#ifdef _OPENMP
        const int thread = omp_get_thread_num(), all = omp_get_num_threads();
#else
        const int thread = 0, all = 1;
#endif
        const Range o = part(m->rows, LANES, thread, all);
        Input in{x, rows, m->cols};
        half ? linear<true>(*m, in, y, m->rows, o, own) : linear<false>(*m, in, y, m->rows, o, own);
    }
}

// Columns of outputs [16 first, 16 last): y [m.cols, stride] = W^T, in bf16 if `half`; for torch's matrix products.
extern "C" void meristem_unpack(const Matrix* m, void* y, i64 stride, i64 first, i64 last, i64 half, int threads) {
    const i64 groups = m->cols / m->group, bytes = m->cols * LANES / (m->kind == INT8 ? 1 : 2);
#pragma omp parallel for num_threads(threads)
    for (i64 p = first; p < last; p++) {
        auto w = static_cast<const byte*>(m->data) + p * bytes;
        for (i64 g = 0; g < groups; g++) {
            const i64 at = (p * groups + g) * LANES;
            const vf scale = widen(m->scale + at), low = m->low ? widen(m->low + at) : vf{};
            for (i64 c = g * m->group; c < (g + 1) * m->group; c += 8) {
                vf q[8];
                if (m->kind == INT4) {
                    vu v = *reinterpret_cast<const vuu*>(w + c * LANES / 2);
                    for (int j = 0; j < 8; j++) q[j / 2 + (j % 2) * 4] = nibble(v, j);
                } else {
                    for (int j = 0; j < 8; j += 4) {
                        auto at = w + (c + j) * LANES;
                        vf a = integers(at), b = integers(at + 16), e = integers(at + 32), f = integers(at + 48);
                        vf left = evens(a, b), right = evens(e, f);
                        q[j] = evens(left, right), q[j + 2] = odds(left, right);
                        left = odds(a, b), right = odds(e, f);
                        q[j + 1] = evens(left, right), q[j + 3] = odds(left, right);
                    }
                }
                for (int j = 0; j < 8; j++) {
                    const i64 to = (c + j) * stride + (p - first) * LANES;
                    const vf value = q[j] * scale + low;
                    if (half) *reinterpret_cast<vhu*>(static_cast<uint16_t*>(y) + to) = narrow(value);
                    else store(static_cast<float*>(y) + to, value);
                }
            }
        }
    }
}

// Of each row of logits [rows, n] the log of the sum of exponentials (NaN where one is NaN) and the first largest one.
extern "C" void meristem_judge(const float* logits, i64 rows, i64 n, float* sums, i64* best, int threads) {
#pragma omp parallel for num_threads(rows > 1 ? threads : 1)
    for (i64 r = 0; r < rows; r++) {
        const float* x = logits + r * n;
        vf tops = spread(-INFINITY);
        i64 i = 0;
        for (; i + LANES <= n; i += LANES) {
            const vf v = load(x + i);
            tops = v > tops ? v : tops;
        }
        float top = -INFINITY;
        for (int l = 0; l < LANES; l++) top = std::max(top, tops[l]);
        for (; i < n; i++) top = std::max(top, x[i]);
        double sum = 0;
        for (i = 0; i + LANES <= n;) {                         // 64 additions in fp32 at most
            vf some = {};
            for (i64 end = std::min(i + 64 * LANES, n - LANES + 1); i < end; i += LANES)
                some += exponential(load(x + i) - top);
            sum += total(some);
        }
        for (; i < n; i++) sum += std::exp(x[i] - top);
        sums[r] = float(top + std::log(sum));
        for (i = 0; i < n - 1 && x[i] != top;) i++;
        best[r] = i;
    }
}

// Of each row the first token at which the sum of exp(logits / temperature) exceeds the share `at` of its total; -1 where
// that hangs on the last digits (SLACK of the total: eight times what fp32 was seen to lose), or on numbers not finite.
extern "C" void meristem_draw(const float* logits, i64 rows, i64 n, const double* at, double temperature, i64* tokens,
                              int threads) {
    constexpr double SLACK = 1e-6;
    constexpr i64 PART = 64 * LANES;                           // 64 additions in fp32 at most
    const float cold = float(1 / temperature);
#pragma omp parallel for num_threads(rows > 1 ? threads : 1)
    for (i64 r = 0; r < rows; r++) {
        static thread_local std::vector<double> parts;
        const float* x = logits + r * n;
        float top = -INFINITY;
        vf tops = spread(top);
        i64 i = 0;
        for (; i + LANES <= n; i += LANES) {
            const vf v = load(x + i);
            tops = v > tops ? v : tops;
        }
        for (int l = 0; l < LANES; l++) top = std::max(top, tops[l]);
        for (; i < n; i++) top = std::max(top, x[i]);
        auto power = [&](i64 from) {                           // of 16 tokens; 0 behind the last
            if (from + LANES <= n) return exponential((load(x + from) - top) * cold);
            float some[LANES], live[LANES];
            for (int l = 0; l < LANES; l++) live[l] = from + l < n, some[l] = from + l < n ? x[from + l] : top;
            return exponential((load(some) - top) * cold) * load(live);
        };
        parts.clear();
        double sum = 0;
        for (i = 0; i < n; i += PART) {
            vf some = {};
            for (i64 j = i; j < std::min(i + PART, n); j += LANES) some += power(j);
            parts.push_back(total(some));
            sum += parts.back();
        }
        const double aim = at[r] * sum, slack = SLACK * sum;
        double before = 0;
        size_t part = 0;
        for (; part < parts.size() && before + parts[part] <= aim; part++) before += parts[part];
        tokens[r] = -1;
        bool found = false;
        for (i = i64(part) * PART; i < std::min(i64(part + 1) * PART, n) && !found; i += LANES) {
            const vf e = power(i);
            for (int l = 0; l < LANES && i + l < n && !found; l++) {
                found = before + e[l] > aim;
                if (found && before + slack < aim && aim + slack < before + e[l]) tokens[r] = i + l;
                before += e[l];
            }
        }
    }
}

// ---- group normalisation of pictures, channels last, with or without silu --------------------------------------

namespace {

inline vf take(const float* p) { return load(p); }
inline vf take(const uint16_t* p) { return widen(p); }
inline void put(float* p, vf v) { store(p, v); }
inline void put(uint16_t* p, vf v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    *reinterpret_cast<vhu*>(p) = narrow(v);
#endif
}
// 1 / (1 + exp(-z)), for results in bf16 with a relative error of 1e-4.
template <class T> inline vf sigmoid(vf z) { return 1.f / (1.f + exponential(-z)); }
#ifdef __AVX512F__
template <> inline vf sigmoid<uint16_t>(vf z) {
    z = (vf)_mm512_max_ps((__m512)(z * -1.44269504f), _mm512_set1_ps(-126.f));
    z = (vf)_mm512_min_ps((__m512)z, _mm512_set1_ps(126.f));
    const __m512 n = _mm512_roundscale_ps((__m512)z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vf f = z - (vf)n;
    const vf p = (((f * 0.0096181f + 0.0555041f) * f + 0.2402265f) * f + 0.6931472f) * f + 1.f;
    return (vf)_mm512_rcp14_ps((__m512)((vf)_mm512_scalef_ps((__m512)p, n) + 1.f));
}
#endif

// Mean and 1 / deviation of the groups of one picture x [n, c], c a multiple of LANES; moments of each channel around
// its first pixel are put together, so that a large mean costs no digits.
template <class T>
void moments(const T* x, i64 n, i64 c, i64 groups, float eps, float* mean, float* scale) {
    const i64 each = c / groups;
    std::vector<double> first(c), second(c);
    for (i64 j = 0; j < c; j += LANES) {
        const vf around = take(x + j);
        vf sum = {}, square = {};
        for (i64 i = 0; i < n; i++) {
            const vf d = take(x + i * c + j) - around;
            sum += d, square += d * d;
        }
        for (int l = 0; l < LANES; l++)
            first[j + l] = around[l] + sum[l] / double(n), second[j + l] = square[l] - double(sum[l]) * sum[l] / n;
    }
    for (i64 g = 0; g < groups; g++) {
        double middle = 0, spread = 0;
        for (i64 j = g * each; j < (g + 1) * each; j++) middle += first[j] / each;
        for (i64 j = g * each; j < (g + 1) * each; j++) {
            const double d = first[j] - middle;
            spread += second[j] + n * d * d;
        }
        mean[g] = float(middle), scale[g] = float(1 / std::sqrt(std::max(spread, 0.) / double(n * each) + eps));
    }
}

template <class T>
void norm_forward(const T* x, const float* w, const float* b, T* y, float* means, float* scales, i64 rows, i64 n, i64 c,
                  i64 groups, float eps, bool silu, int threads) {
#pragma omp parallel for num_threads(threads)
    for (i64 r = 0; r < rows; r++) {
        const T* in = x + r * n * c;
        float *mean = means + r * groups, *scale = scales + r * groups;
        moments(in, n, c, groups, eps, mean, scale);
        std::vector<float> by(c), plus(c);
        for (i64 j = 0; j < c; j++) {
            const i64 g = j * groups / c;
            by[j] = scale[g] * w[j], plus[j] = b[j] - mean[g] * by[j];
        }
        for (i64 i = 0; i < n; i++)
            for (i64 j = 0; j < c; j += LANES) {
                vf z = take(in + i * c + j) * load(&by[j]) + load(&plus[j]);
                if (silu) z *= sigmoid<T>(z);
                put(y + (r * n + i) * c + j, z);
            }
    }
}

// Gradients: of x, and of each picture's weight and bias [rows, c], which the caller sums.
template <class T>
void norm_backward(const T* dy, const T* x, const float* w, const float* b, const float* means, const float* scales,
                   T* dx, float* dw, float* db, i64 rows, i64 n, i64 c, i64 groups, bool silu, int threads) {
#pragma omp parallel for num_threads(threads)
    for (i64 r = 0; r < rows; r++) {
        const float *mean = means + r * groups, *scale = scales + r * groups;
        const T *in = x + r * n * c, *out = dy + r * n * c;
        std::vector<float> by(c), plus(c), back(c), shift(c);
        for (i64 j = 0; j < c; j++) by[j] = scale[j * groups / c], plus[j] = -mean[j * groups / c] * by[j];
        auto slope = [&](i64 i, i64 j, vf unit) {              // dy times the slope of silu
            const vf g = take(out + i * c + j);
            if (!silu) return g;
            const vf z = unit * load(w + j) + load(b + j), s = sigmoid<T>(z);
            return g * s * (1.f + z * (1.f - s));
        };
        for (i64 j = 0; j < c; j += LANES) {
            vf weight = {}, bias = {};
            for (i64 i = 0; i < n; i++) {
                const vf unit = take(in + i * c + j) * load(&by[j]) + load(&plus[j]), g = slope(i, j, unit);
                weight += g * unit, bias += g;
            }
            store(dw + r * c + j, weight), store(db + r * c + j, bias);
        }
        const i64 each = c / groups;
        for (i64 g = 0; g < groups; g++) {
            double flat = 0, tilt = 0;
            for (i64 j = g * each; j < (g + 1) * each; j++)
                flat += double(w[j]) * db[r * c + j], tilt += double(w[j]) * dw[r * c + j];
            for (i64 j = g * each; j < (g + 1) * each; j++)
                shift[j] = float(flat / (n * each)), back[j] = float(tilt / (n * each));
        }
        for (i64 i = 0; i < n; i++)
            for (i64 j = 0; j < c; j += LANES) {
                const vf unit = take(in + i * c + j) * load(&by[j]) + load(&plus[j]), g = slope(i, j, unit);
                put(dx + (r * n + i) * c + j, load(&by[j]) * (g * load(w + j) - load(&shift[j]) - unit * load(&back[j])));
            }
    }
}

}  // namespace

// x, y [rows, n, c] in fp32 or bf16 (`half`), the rest fp32; means and scales [rows, groups].
extern "C" void meristem_norm(const void* x, const float* w, const float* b, void* y, float* means, float* scales,
                              i64 rows, i64 n, i64 c, i64 groups, float eps, i64 silu, i64 half, int threads) {
    if (half)
        norm_forward((const uint16_t*)x, w, b, (uint16_t*)y, means, scales, rows, n, c, groups, eps, silu, threads);
    else
        norm_forward((const float*)x, w, b, (float*)y, means, scales, rows, n, c, groups, eps, silu, threads);
}
extern "C" void meristem_norm_back(const void* dy, const void* x, const float* w, const float* b, const float* means,
                                   const float* scales, void* dx, float* dw, float* db, i64 rows, i64 n, i64 c,
                                   i64 groups, i64 silu, i64 half, int threads) {
    if (half)
        norm_backward((const uint16_t*)dy, (const uint16_t*)x, w, b, means, scales, (uint16_t*)dx, dw, db, rows, n, c,
                      groups, silu, threads);
    else
        norm_backward((const float*)dy, (const float*)x, w, b, means, scales, (float*)dx, dw, db, rows, n, c, groups,
                      silu, threads);
}

// 1: portable vectors; 2: with AVX-512; 3: with dot products of bf16 pairs
extern "C" int meristem_level() {
#if defined(__AVX512BF16__)
    return 3;
#elif defined(__AVX512F__)
    return 2;
#else
    return 1;
#endif
}
