// The most probable of the tokens that fit into free text, and its share among them; float32.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

inline Integers load_costs(const int32_t* from) {
    Integers result;
    std::memcpy(&result, from, sizeof result);
    return result;
}

}  // namespace

extern "C" {

// Of each row: `logits` [rows, row_width], of which the first `vocabulary` are tokens; a token fits whose cost in the
// row's state (`costs` [states, vocabulary]) is at most `left`, and the terminator wherever the text may end. The lowest
// id wins among equals. `log_share` is the natural logarithm of the share; -1 is the token of a row where nothing fits.
void choose_text(const float* logits, int64_t row_width, const int32_t* costs, int64_t vocabulary, const int64_t* state,
                 const int32_t* left, const int64_t* terminator, const uint8_t* may_end, int64_t rows, int64_t* token,
                 float* log_share) {
    for (int64_t row = 0; row < rows; row++) {
        const float* numbers = logits + row * row_width;
        const int32_t* cost = costs + state[row] * vocabulary;
        const int32_t room = left[row];
        const Integers rooms = Integers{} + room;
        const Vector none = all(-INFINITY);
        Vector highest = none;
        int64_t place = 0;
        for (; place + kLanes <= vocabulary; place += kLanes) {
            const Vector number = load_costs(cost + place) <= rooms ? load(numbers + place) : none;
            highest = number > highest ? number : highest;
        }
        float best = -INFINITY;
        for (int64_t lane = 0; lane < kLanes; lane++) best = highest[lane] > best ? highest[lane] : best;
        for (; place < vocabulary; place++)
            if (cost[place] <= room && numbers[place] > best) best = numbers[place];
        // The token that ends the text may not fit into it as text; it then stands beside the others.
        const int64_t last = terminator[row];
        const bool ends = may_end[row] && cost[last] > room;
        if (ends && numbers[last] > best) best = numbers[last];

        Vector sums = {};
        for (place = 0; place + kLanes <= vocabulary; place += kLanes) {
            const Vector share = exp_of(load(numbers + place) - best);
            sums += load_costs(cost + place) <= rooms ? share : Vector{};
        }
        double sum = ends ? std::exp(numbers[last] - best) : 0.0;
        for (int64_t lane = 0; lane < kLanes; lane++) sum += sums[lane];
        for (; place < vocabulary; place++)
            if (cost[place] <= room) sum += std::exp(numbers[place] - best);

        token[row] = -1;
        for (place = 0; place < vocabulary && token[row] < 0; place++)
            if (numbers[place] == best && (cost[place] <= room || (ends && place == last))) token[row] = place;
        log_share[row] = -static_cast<float>(std::log(sum));
    }
}
}
