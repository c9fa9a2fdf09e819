/* Convolution, batch normalization and ReLU of small networks, forward and backward.
 *
 * Sixteen clips are the sixteen floats of a vector: the batch is the innermost axis of every
 * array, so that a multiply-add does the same work for sixteen clips at once, whatever the size of
 * the image. Libraries that block over channels or pixels find too little of either here.
 *
 * Arrays, C order, float32; B is a multiple of 16:
 *   x      (K or 1, Cin, H, W, B)      K models; one input for all of them where x_models is 1
 *   weight (K, Cout, Cin, kh, kw), bias, gamma, beta, mean, var (K, Cout)
 *   z, y   (K, Cout, Ho, Wo, B)        after the convolution; after normalization and ReLU
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
/* Arrays of sums have this fixed size and keep to registers as far as they are used. With a size
 * that is a parameter, if a constant one, they would be in memory, and the kernels half as fast. */
#define MOST 8
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));

typedef int mask __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));

/* `value` where `condition` is positive, else 0. */
INLINE vec where_positive(vec condition, vec value) {
    return (vec)((mask)value & (mask)(condition > 0));
}

typedef struct {
    long models, x_models, batch;
    long cin, height, width, cout, out_height, out_width;
    long kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, padding_h, padding_w;
} shape_t;

static long padded_height(const shape_t *s) { return s->height + 2 * s->padding_h; }
static long padded_width(const shape_t *s) { return s->width + 2 * s->padding_w; }

static float sum_lanes(vec v) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
}

static void *scratch(long floats) {
    return aligned_alloc(4 * LANES, (size_t)floats * sizeof(float));
}

/* Copy sixteen clips of one model's input into a frame of zeros: (Cin, Hp, Wp, 16). */
static void pad(const shape_t *s, const float *x, float *padded) {
    long hp = padded_height(s), wp = padded_width(s);
    memset(padded, 0, (size_t)(s->cin * hp * wp * LANES) * sizeof(float));
    for (long c = 0; c < s->cin; c++)
        for (long i = 0; i < s->height; i++) {
            const float *from = x + (c * s->height + i) * s->width * s->batch;
            float *to = padded + ((c * hp + i + s->padding_h) * wp + s->padding_w) * LANES;
            for (long j = 0; j < s->width; j++)
                *(vec *)(to + j * LANES) = *(const vec *)(from + j * s->batch);
        }
}

/* The reverse of `pad`, without the frame. */
static void unpad(const shape_t *s, const float *padded, float *x) {
    long hp = padded_height(s), wp = padded_width(s);
    for (long c = 0; c < s->cin; c++)
        for (long i = 0; i < s->height; i++) {
            const float *from = padded + ((c * hp + i + s->padding_h) * wp + s->padding_w) * LANES;
            float *to = x + (c * s->height + i) * s->width * s->batch;
            for (long j = 0; j < s->width; j++)
                *(vec *)(to + j * s->batch) = *(const vec *)(from + j * LANES);
        }
}

/* X neighbouring output pixels of CO channels, with all of their sums in registers. */
INLINE void forward_pixels(const int CO, const int X, const shape_t *s, const float *padded,
                           const float *w, const float *bias, float *z, long row, long column) {
    long hp = padded_height(s), wp = padded_width(s);
    vec sums[MOST][MOST];
    UNROLL for (int c = 0; c < CO; c++)
        UNROLL for (int p = 0; p < X; p++) sums[c][p] = bias[c] - (vec){0};
    for (long c = 0; c < s->cin; c++)
        for (long i = 0; i < s->kernel_h; i++) {
            const float *line = padded + (c * hp + row * s->stride_h + i * s->dilation_h) * wp * LANES
                                + column * s->stride_w * LANES;
            for (long j = 0; j < s->kernel_w; j++, w += CO) {
                vec pixel[MOST];
                UNROLL for (int p = 0; p < X; p++)
                    pixel[p] = *(const vec *)(line + (p * s->stride_w + j * s->dilation_w) * LANES);
                UNROLL for (int o = 0; o < CO; o++)
                    UNROLL for (int p = 0; p < X; p++) sums[o][p] += w[o] * pixel[p];
            }
        }
    UNROLL for (int c = 0; c < CO; c++)
        UNROLL for (int p = 0; p < X; p++)
            *(vec *)(z + ((c * s->out_height + row) * s->out_width + column + p) * s->batch) = sums[c][p];
}

INLINE void forward(const int CO, const int X, const shape_t *s, const float *padded,
                    const float *w, const float *bias, float *z) {
    for (long row = 0; row < s->out_height; row++) {
        long column = 0;
        for (; column + X <= s->out_width; column += X)
            forward_pixels(CO, X, s, padded, w, bias, z, row, column);
        for (; column < s->out_width; column++)
            forward_pixels(CO, 1, s, padded, w, bias, z, row, column);
    }
}

/* Gradient of X neighbouring weights of a kernel's row, for CO output channels. */
INLINE void weight_gradients(const int CO, const int X, const shape_t *s, const float *padded,
                             const float *gz, float *gw, long channel, long i, long j) {
    long hp = padded_height(s), wp = padded_width(s), pixels = s->out_height * s->out_width;
    vec sums[MOST][MOST];
    UNROLL for (int c = 0; c < CO; c++)
        UNROLL for (int p = 0; p < X; p++) sums[c][p] = (vec){0};
    for (long row = 0; row < s->out_height; row++) {
        const float *line = padded + ((channel * hp + row * s->stride_h + i * s->dilation_h) * wp
                                      + j * s->dilation_w) * LANES;
        const float *g = gz + row * s->out_width * LANES;
        for (long column = 0; column < s->out_width; column++, line += s->stride_w * LANES, g += LANES) {
            vec gradient[MOST];
            UNROLL for (int c = 0; c < CO; c++) gradient[c] = *(const vec *)(g + c * pixels * LANES);
            UNROLL for (int p = 0; p < X; p++) {
                vec pixel = *(const vec *)(line + p * s->dilation_w * LANES);
                UNROLL for (int c = 0; c < CO; c++) sums[c][p] += gradient[c] * pixel;
            }
        }
    }
    for (int c = 0; c < CO; c++)
        for (int p = 0; p < X; p++)
            gw[((c * s->cin + channel) * s->kernel_h + i) * s->kernel_w + j + p] += sum_lanes(sums[c][p]);
}

INLINE void backward_weight(const int CO, const int X, const shape_t *s, const float *padded,
                            const float *gz, float *gw) {
    for (long channel = 0; channel < s->cin; channel++)
        for (long i = 0; i < s->kernel_h; i++) {
            long j = 0;
            for (; j + X <= s->kernel_w; j += X)
                weight_gradients(CO, X, s, padded, gz, gw, channel, i, j);
            for (; j < s->kernel_w; j++)
                weight_gradients(CO, 1, s, padded, gz, gw, channel, i, j);
        }
}

/* Add the gradient of each output pixel to the padded input pixels that it was computed from. */
INLINE void backward_input(const int CO, const shape_t *s, const float *weights, const float *gz,
                           float *gx) {
    long hp = padded_height(s), wp = padded_width(s), pixels = s->out_height * s->out_width;
    for (long row = 0; row < s->out_height; row++)
        for (long column = 0; column < s->out_width; column++) {
            const float *g = gz + (row * s->out_width + column) * LANES, *w = weights;
            vec gradient[MOST];
            UNROLL for (int c = 0; c < CO; c++) gradient[c] = *(const vec *)(g + c * pixels * LANES);
            for (long channel = 0; channel < s->cin; channel++)
                for (long i = 0; i < s->kernel_h; i++) {
                    float *line = gx + ((channel * hp + row * s->stride_h + i * s->dilation_h) * wp
                                        + column * s->stride_w) * LANES;
                    for (long j = 0; j < s->kernel_w; j++, w += CO) {
                        vec *to = (vec *)(line + j * s->dilation_w * LANES), sum = *to;
                        UNROLL for (int c = 0; c < CO; c++) sum += w[c] * gradient[c];
                        *to = sum;
                    }
                }
        }
}

/* Weights with the output channel innermost: (Cin, kh, kw, Cout). */
static void channels_last(const shape_t *s, const float *weight, float *out) {
    long taps = s->cin * s->kernel_h * s->kernel_w;
    for (long c = 0; c < s->cout; c++)
        for (long tap = 0; tap < taps; tap++) out[tap * s->cout + c] = weight[c * taps + tap];
}

/* The numbers of channels that the kernels are compiled for, each with the number of pixels or
 * weights at a time that was the fastest. */
int conv_block_supports(long cout) { return cout == 2 || cout == 4 || cout == 5 || cout == 8; }

static void run_forward(const shape_t *s, const float *p, const float *w, const float *b, float *z) {
    switch (s->cout) {
        case 2: forward(2, 4, s, p, w, b, z); break;
        case 4: forward(4, 5, s, p, w, b, z); break;
        case 5: forward(5, 4, s, p, w, b, z); break;
        case 8: forward(8, 3, s, p, w, b, z); break;
    }
}

static void run_backward_weight(const shape_t *s, const float *p, const float *gz, float *gw) {
    switch (s->cout) {
        case 2: backward_weight(2, 3, s, p, gz, gw); break;
        case 4: backward_weight(4, 5, s, p, gz, gw); break;
        case 5: backward_weight(5, 3, s, p, gz, gw); break;
        case 8: backward_weight(8, 4, s, p, gz, gw); break;
    }
}

static void run_backward_input(const shape_t *s, const float *w, const float *gz, float *gx) {
    switch (s->cout) {
        case 2: backward_input(2, s, w, gz, gx); break;
        case 4: backward_input(4, s, w, gz, gx); break;
        case 5: backward_input(5, s, w, gz, gx); break;
        case 8: backward_input(8, s, w, gz, gx); break;
    }
}

/* Mean and biased variance of one channel: (pixels, B). */
static void statistics(const float *z, long count, float *mean, float *var) {
    vec sum = {0}, squares = {0};
    for (long i = 0; i < count; i += LANES) sum += *(const vec *)(z + i);
    *mean = sum_lanes(sum) / (float)count;
    for (long i = 0; i < count; i += LANES) {
        vec off = *(const vec *)(z + i) - *mean;
        squares += off * off;
    }
    *var = sum_lanes(squares) / (float)count;
}

/* y = relu(batch_norm(conv(x))). In training, mean and var are outputs, otherwise inputs. */
void conv_block_forward(const shape_t *s, int training, float eps, const float *x,
                        const float *weight, const float *bias, const float *gamma,
                        const float *beta, float *mean, float *var, float *z, float *y) {
    long taps = s->cin * s->kernel_h * s->kernel_w, pixels = s->out_height * s->out_width;
    long x_size = s->cin * s->height * s->width * s->batch, z_size = s->cout * pixels * s->batch;
    float *padded = scratch(s->cin * padded_height(s) * padded_width(s) * LANES);
    float *w = scratch((s->cout * taps + LANES) / LANES * LANES);
    for (long k = 0; k < s->models; k++) {
        const float *model_x = x + (s->x_models == 1 ? 0 : k) * x_size;
        float *model_z = z + k * z_size, *model_y = y + k * z_size;
        channels_last(s, weight + k * s->cout * taps, w);
        for (long clip = 0; clip < s->batch; clip += LANES) {
            pad(s, model_x + clip, padded);
            run_forward(s, padded, w, bias + k * s->cout, model_z + clip);
        }
        for (long c = 0; c < s->cout; c++) {
            long at = k * s->cout + c, count = pixels * s->batch;
            const float *from = model_z + c * count;
            float *to = model_y + c * count;
            if (training) statistics(from, count, mean + at, var + at);
            float scale = gamma[at] / sqrtf(var[at] + eps), shift = beta[at] - mean[at] * scale;
            for (long i = 0; i < count; i += LANES) {
                vec value = *(const vec *)(from + i) * scale + shift;
                *(vec *)(to + i) = where_positive(value, value);
            }
        }
    }
    free(padded);
    free(w);
}

/* Gradients of a training forward; gx is NULL where the input needs none. */
void conv_block_backward(const shape_t *s, float eps, const float *gy, const float *x,
                         const float *z, const float *weight, const float *gamma,
                         const float *beta, const float *mean, const float *var, float *gx,
                         float *gweight, float *ggamma, float *gbeta) {
    long taps = s->cin * s->kernel_h * s->kernel_w, pixels = s->out_height * s->out_width;
    long x_size = s->cin * s->height * s->width * s->batch, z_size = s->cout * pixels * s->batch;
    long padded_size = s->cin * padded_height(s) * padded_width(s) * LANES, count = pixels * s->batch;
    float *padded = scratch(padded_size), *padded_gx = scratch(padded_size);
    float *gz = scratch(s->cout * pixels * LANES), *w = scratch((s->cout * taps + LANES) / LANES * LANES);
    memset(gweight, 0, (size_t)(s->models * s->cout * taps) * sizeof(float));
    for (long k = 0; k < s->models; k++) {
        const float *model_x = x + (s->x_models == 1 ? 0 : k) * x_size;
        const float *model_z = z + k * z_size, *model_gy = gy + k * z_size;
        for (long c = 0; c < s->cout; c++) {
            long at = k * s->cout + c;
            float invstd = 1 / sqrtf(var[at] + eps);
            vec sum = {0}, product = {0};
            for (long i = 0; i < count; i += LANES) {
                vec normal = (*(const vec *)(model_z + c * count + i) - mean[at]) * invstd;
                vec g = *(const vec *)(model_gy + c * count + i);
                g = where_positive(normal * gamma[at] + beta[at], g);
                sum += g;
                product += g * normal;
            }
            gbeta[at] = sum_lanes(sum);
            ggamma[at] = sum_lanes(product);
        }
        channels_last(s, weight + k * s->cout * taps, w);
        for (long clip = 0; clip < s->batch; clip += LANES) {
            for (long c = 0; c < s->cout; c++) {
                long at = k * s->cout + c;
                float invstd = 1 / sqrtf(var[at] + eps);
                float mean_g = gbeta[at] / (float)count, mean_product = ggamma[at] / (float)count;
                for (long i = 0; i < pixels; i++) {
                    long from = c * count + i * s->batch + clip;
                    vec normal = (*(const vec *)(model_z + from) - mean[at]) * invstd;
                    vec g = *(const vec *)(model_gy + from);
                    g = where_positive(normal * gamma[at] + beta[at], g);
                    *(vec *)(gz + (c * pixels + i) * LANES) =
                        (g - mean_g - normal * mean_product) * (gamma[at] * invstd);
                }
            }
            pad(s, model_x + clip, padded);
            run_backward_weight(s, padded, gz, gweight + k * s->cout * taps);
            if (gx) {
                memset(padded_gx, 0, (size_t)padded_size * sizeof(float));
                run_backward_input(s, w, gz, padded_gx);
                unpad(s, padded_gx, gx + k * x_size + clip);
            }
        }
    }
    free(padded);
    free(padded_gx);
    free(gz);
    free(w);
}
