// What a transformer layer does between its matrix products, each in one walk over its numbers; float32.

#include <cmath>
#include <cstdint>

#include "vectors.h"

extern "C" {

// Rows [rows, width] over the root of their mean square, times `weight` [width] (B. Zhang, R. Sennrich, arXiv 1910.07467).
void root_mean_square_norm(const float* input, const float* weight, float* output, int64_t rows, int64_t width,
                           float epsilon) {
    for (int64_t row = 0; row < rows; row++, input += width, output += width) {
        Vector squares = {};
        int64_t place = 0;
        for (; place + kLanes <= width; place += kLanes) squares += load(input + place) * load(input + place);
        float sum = 0;
        for (int64_t lane = 0; lane < kLanes; lane++) sum += squares[lane];
        for (; place < width; place++) sum += input[place] * input[place];
        const float scale = 1.0f / std::sqrt(sum / static_cast<float>(width) + epsilon);
        for (place = 0; place + kLanes <= width; place += kLanes)
            save(output + place, load(input + place) * scale * load(weight + place));
        for (; place < width; place++) output[place] = input[place] * scale * weight[place];
    }
}

// gate * sigmoid(gate) * up of as many numbers.
void gated_product(const float* gate, const float* up, float* output, int64_t count) {
    int64_t place = 0;
    for (; place + kLanes <= count; place += kLanes) {
        const Vector number = load(gate + place);
        save(output + place, number / (exp_of(-number) + 1.0f) * load(up + place));
    }
    for (; place < count; place++) output[place] = gate[place] / (std::exp(-gate[place]) + 1.0f) * up[place];
}

// Turn the halves of every head by its token's angles (J. Su et al., arXiv 2104.09864): heads and tokens of `input` and
// `output` lie the same strides apart; `cosine` and `sine` are [tokens, dimension].
void rotate_halves(const float* input, const float* cosine, const float* sine, float* output, int64_t heads,
                   int64_t tokens, int64_t dimension, int64_t head_stride, int64_t token_stride) {
    const int64_t half = dimension / 2;
    for (int64_t token = 0; token < tokens; token++, cosine += dimension, sine += dimension) {
        for (int64_t head = 0; head < heads; head++) {
            const float* first = input + token * token_stride + head * head_stride;
            float* target = output + token * token_stride + head * head_stride;
            for (int64_t place = 0; place < half; place++) {
                const float left = first[place], right = first[place + half];
                target[place] = left * cosine[place] - right * sine[place];
                target[place + half] = right * cosine[place + half] + left * sine[place + half];
            }
        }
    }
}

// Rows [rows, width] to 8-bit integers between -127 and 127 and the scale [rows] of each: number = code * scale.
void quantise_rows(const float* input, int8_t* codes, float* scales, int64_t rows, int64_t width, float least_scale) {
    typedef int8_t Bytes __attribute__((vector_size(kLanes)));
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: added, it rounds to a whole number
    for (int64_t row = 0; row < rows; row++, input += width, codes += width) {
        Vector highest = {};
        int64_t place = 0;
        for (; place + kLanes <= width; place += kLanes) {
            const Vector number = load(input + place);
            const Vector size = number < -number ? -number : number;
            highest = size > highest ? size : highest;
        }
        float largest = 0;
        for (int64_t lane = 0; lane < kLanes; lane++) largest = highest[lane] > largest ? highest[lane] : largest;
        for (; place < width; place++) largest = std::fabs(input[place]) > largest ? std::fabs(input[place]) : largest;
        const float scale = largest / 127.0f > least_scale ? largest / 127.0f : least_scale;
        scales[row] = scale;
        const float inverse = 1.0f / scale;
        for (place = 0; place + kLanes <= width; place += kLanes) {
            const Vector rounded = load(input + place) * inverse + magic - magic;
            const Bytes bytes = __builtin_convertvector(__builtin_convertvector(rounded, Integers), Bytes);
            std::memcpy(codes + place, &bytes, sizeof bytes);
        }
        for (; place < width; place++) codes[place] = static_cast<int8_t>(std::nearbyint(input[place] * inverse));
    }
}

// Whole-number products [rows, width] (int32) to floats in their place: times the scales of their rows and columns, plus
// `bias` [width] where there is one.
void scale_products(void* products, const float* row_scales, const float* column_scales, const float* bias, int64_t rows,
                    int64_t width) {
    char* numbers = static_cast<char*>(products);
    for (int64_t row = 0; row < rows; row++, numbers += width * static_cast<int64_t>(sizeof(float))) {
        const float scale = row_scales[row];
        int64_t place = 0;
        for (; place + kLanes <= width; place += kLanes) {
            Integers whole;
            std::memcpy(&whole, numbers + place * sizeof(float), sizeof whole);
            Vector number = __builtin_convertvector(whole, Vector) * scale * load(column_scales + place);
            if (bias != nullptr) number += load(bias + place);
            std::memcpy(numbers + place * sizeof(float), &number, sizeof number);
        }
        for (; place < width; place++) {
            int32_t whole;
            std::memcpy(&whole, numbers + place * sizeof(float), sizeof whole);
            const float number = static_cast<float>(whole) * scale * column_scales[place] +
                                 (bias != nullptr ? bias[place] : 0.0f);
            std::memcpy(numbers + place * sizeof(float), &number, sizeof number);
        }
    }
}
}
