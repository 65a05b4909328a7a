// Attention of packed tokens to the own tokens of their rows, joined with what their prefix gave; float32.
//
// The scores of 16 keys stand in one vector, so keys are kept with their tokens innermost. Several query heads share a
// load of their key head. Softmax is taken over own keys and prefix together: the prefix comes as an output and the
// log-sum-exp of its scores, and counts as one more key of that score (N. Rabe, C. Staats, arXiv 2112.05682).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t kBlock = 32;  // keys scored at once; the places of a slot are a multiple of it

// Keys [dimension, capacity] and values [capacity, dimension] of one slot's key head; the keys first .. last are seen.
struct Seen {
    const float* keys;
    const float* values;
    int64_t dimension, capacity, first, last;
};

// The weighted sums of kParts vectors of the values, from dimension `part` on.
template <int kHeads, int kParts>
void sum_values(const Seen& seen, int64_t part, const float* weights, int64_t width, const float* prefix,
                int64_t prefix_head, const float* share, const float* total, float* output) {
    Vector sums[kHeads][kParts];
    for (int head = 0; head < kHeads; head++)
        for (int piece = 0; piece < kParts; piece++)
            sums[head][piece] = share[head] > 0
                                    ? load(prefix + head * prefix_head + part + piece * kLanes) * share[head]
                                    : Vector{};
    const float* value = seen.values + seen.first * seen.dimension + part;
    for (int64_t place = seen.first; place <= seen.last; place++, value += seen.dimension, weights++) {
        Vector numbers[kParts];
        for (int piece = 0; piece < kParts; piece++) numbers[piece] = load(value + piece * kLanes);
        for (int head = 0; head < kHeads; head++)
            for (int piece = 0; piece < kParts; piece++) sums[head][piece] += numbers[piece] * weights[head * width];
    }
    for (int head = 0; head < kHeads; head++)
        for (int piece = 0; piece < kParts; piece++)
            save(output + head * seen.dimension + part + piece * kLanes, sums[head][piece] / total[head]);
}

// One token's kHeads query heads that share a key head.
template <int kHeads>
void attend_heads(const Seen& seen, const float* query, int64_t query_head, float scale, const float* prefix,
                  int64_t prefix_head, const float* prefix_sums, int64_t sums_head, float* output,
                  std::vector<float>& scratch) {
    const int64_t from = seen.first / kBlock * kBlock;
    const int64_t width = (seen.last / kBlock + 1) * kBlock - from;
    scratch.resize(static_cast<size_t>(kHeads * width));
    float* scores = scratch.data();
    Vector highest[kHeads];
    for (int head = 0; head < kHeads; head++) highest[head] = all(-INFINITY);

    for (int64_t block = 0; block < width; block += kBlock) {
        Vector sums[kHeads][2] = {};
        const float* key = seen.keys + from + block;
        for (int64_t place = 0; place < seen.dimension; place++, key += seen.capacity) {
            const Vector left = load(key), right = load(key + kLanes);
            for (int head = 0; head < kHeads; head++) {
                const float weight = query[head * query_head + place];
                sums[head][0] += left * weight;
                sums[head][1] += right * weight;
            }
        }
        const bool whole = from + block >= seen.first && from + block + kBlock - 1 <= seen.last;
        for (int head = 0; head < kHeads; head++) {
            float* row = scores + head * width + block;
            save(row, sums[head][0] * scale);
            save(row + kLanes, sums[head][1] * scale);
            for (int64_t key_place = 0; !whole && key_place < kBlock; key_place++) {
                const int64_t place = from + block + key_place;
                if (place < seen.first || place > seen.last) row[key_place] = -INFINITY;
            }
            for (int64_t half = 0; half < kBlock; half += kLanes) {
                const Vector raw = load(row + half);
                highest[head] = raw > highest[head] ? raw : highest[head];
            }
        }
    }
    float total[kHeads], share[kHeads];
    for (int head = 0; head < kHeads; head++) {
        float most = prefix ? prefix_sums[head * sums_head] : -INFINITY;
        for (int64_t lane = 0; lane < kLanes; lane++) most = highest[head][lane] > most ? highest[head][lane] : most;
        float* row = scores + head * width;
        Vector sum = {};
        for (int64_t place = 0; place < width; place += kLanes) {
            const Vector raw = load(row + place);
            // What is hidden weighs nothing at all: exp_of would give its least.
            const Vector weight = raw < all(-3e38f) ? Vector{} : exp_of(raw - most);
            save(row + place, weight);
            sum += weight;
        }
        share[head] = prefix ? std::exp(prefix_sums[head * sums_head] - most) : 0.0f;
        total[head] = share[head];
        for (int64_t lane = 0; lane < kLanes; lane++) total[head] += sum[lane];
    }
    const float* weights = scores + seen.first - from;
    int64_t part = 0;
    for (; part + 2 * kLanes <= seen.dimension; part += 2 * kLanes)
        sum_values<kHeads, 2>(seen, part, weights, width, prefix, prefix_head, share, total, output);
    for (; part < seen.dimension; part += kLanes)
        sum_values<kHeads, 1>(seen, part, weights, width, prefix, prefix_head, share, total, output);
}

}  // namespace

extern "C" {

// Put new keys and values [tokens, key_heads, dimension] at their slots and places of the store.
void keep_own_rows(const float* key, int64_t key_token, int64_t key_head, const float* value, int64_t value_token,
                   int64_t value_head, float* keys, float* values, const int64_t* slots, const int64_t* places,
                   int64_t tokens, int64_t key_heads, int64_t dimension, int64_t capacity) {
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t head = 0; head < key_heads; head++) {
            const int64_t room = (slots[token] * key_heads + head) * dimension * capacity;
            const float* source = key + token * key_token + head * key_head;
            float* target = keys + room + places[token];
            for (int64_t place = 0; place < dimension; place++) target[place * capacity] = source[place];
            std::memcpy(values + room + places[token] * dimension, value + token * value_token + head * value_head,
                        static_cast<size_t>(dimension) * sizeof(float));
        }
    }
}

// Attention of the tokens begin .. end - 1 to their rows up to their own places (the last `window` of them; 0: all), and
// to the prefix: `prefix` null without one. Output [tokens, heads, dimension].
void attend_own_rows(const float* query, int64_t query_token, int64_t query_head, const float* keys, const float* values,
                     const int64_t* slots, const int64_t* places, const float* prefix, int64_t prefix_token,
                     int64_t prefix_head, const float* prefix_sums, int64_t sums_token, int64_t sums_head, float* output,
                     int64_t begin, int64_t end, int64_t heads, int64_t key_heads, int64_t dimension, int64_t capacity,
                     float scale, int64_t window) {
    std::vector<float> scratch;
    const int64_t shared = heads / key_heads;
    for (int64_t token = begin; token < end; token++) {
        const int64_t last = places[token];
        const int64_t first = window && last >= window ? last - window + 1 : 0;
        for (int64_t key_head = 0; key_head < key_heads; key_head++) {
            const int64_t room = (slots[token] * key_heads + key_head) * dimension * capacity;
            const Seen seen{keys + room, values + room, dimension, capacity, first, last};
            for (int64_t done = 0; done < shared;) {
                const int64_t head = key_head * shared + done;
                const float* own_query = query + token * query_token + head * query_head;
                const float* own_prefix = prefix ? prefix + token * prefix_token + head * prefix_head : nullptr;
                const float* own_sums = prefix ? prefix_sums + token * sums_token + head * sums_head : nullptr;
                float* own_output = output + (token * heads + head) * dimension;
                auto attend = shared - done >= 4   ? attend_heads<4>
                              : shared - done == 3 ? attend_heads<3>
                              : shared - done == 2 ? attend_heads<2>
                                                   : attend_heads<1>;
                attend(seen, own_query, query_head, scale, own_prefix, prefix_head, own_sums, sums_head, own_output,
                       scratch);
                done += shared - done >= 4 ? 4 : shared - done;
            }
        }
    }
}
}
