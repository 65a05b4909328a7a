// Attention of packed tokens to their common prefix and to the own tokens of their rows, in one softmax; float32.
//
// The scores of 16 keys stand in one vector, so keys are kept with their tokens innermost. Several query heads share a
// load of their key head.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t kBlock = 32;  // keys scored at once; the places of a slot are a multiple of it

// Keys [dimension, capacity] and values [capacity, dimension] of one key head; the keys first .. last are seen.
struct Seen {
    const float* keys;
    const float* values;
    int64_t capacity, first, last;

    int64_t from() const { return first / kBlock * kBlock; }
    int64_t width() const { return last < first ? 0 : (last / kBlock + 1) * kBlock - from(); }
};

constexpr int kParts = 2;  // the prefix, and the row's own tokens

// Scaled scores of kHeads queries, minus infinity where a key of the block is not seen, into `scores` [kHeads, stride].
template <int kHeads>
void score(const Seen& seen, const float* query, int64_t query_head, int64_t dimension, float scale, float* scores,
           int64_t stride, Vector* highest) {
    const int64_t from = seen.from(), width = seen.width();
    for (int64_t block = 0; block < width; block += kBlock) {
        Vector sums[kHeads][2] = {};
        const float* key = seen.keys + from + block;
        for (int64_t place = 0; place < dimension; place++, key += seen.capacity) {
            const Vector left = load(key), right = load(key + kLanes);
            for (int head = 0; head < kHeads; head++) {
                const float weight = query[head * query_head + place];
                sums[head][0] += left * weight;
                sums[head][1] += right * weight;
            }
        }
        const bool whole = from + block >= seen.first && from + block + kBlock - 1 <= seen.last;
        for (int head = 0; head < kHeads; head++) {
            float* row = scores + head * stride + block;
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
}

// The weighted sums of kPieces vectors of the values, from dimension `piece` on.
template <int kHeads, int kPieces>
void sum_values(const Seen* seen, int64_t dimension, int64_t piece, const float* scores, int64_t stride,
                const float* total, float* output) {
    Vector sums[kHeads][kPieces] = {};
    for (int part = 0; part < kParts; part++) {
        const float* weights = scores + seen[part].first - seen[part].from();
        const float* value = seen[part].values + seen[part].first * dimension + piece;
        for (int64_t place = seen[part].first; place <= seen[part].last; place++, value += dimension, weights++) {
            Vector numbers[kPieces];
            for (int next = 0; next < kPieces; next++) numbers[next] = load(value + next * kLanes);
            for (int head = 0; head < kHeads; head++)
                for (int next = 0; next < kPieces; next++)
                    sums[head][next] += numbers[next] * weights[head * stride];
        }
        scores += seen[part].width();
    }
    for (int head = 0; head < kHeads; head++)
        for (int next = 0; next < kPieces; next++)
            save(output + head * dimension + piece + next * kLanes, sums[head][next] / total[head]);
}

// One token's kHeads query heads that share a key head.
template <int kHeads>
void attend_heads(const Seen* seen, const float* query, int64_t query_head, int64_t dimension, float scale,
                  float* output, std::vector<float>& scratch) {
    const int64_t stride = seen[0].width() + seen[1].width();
    scratch.resize(static_cast<size_t>(kHeads * stride));
    float* scores = scratch.data();
    Vector highest[kHeads];
    for (int head = 0; head < kHeads; head++) highest[head] = all(-INFINITY);
    score<kHeads>(seen[0], query, query_head, dimension, scale, scores, stride, highest);
    score<kHeads>(seen[1], query, query_head, dimension, scale, scores + seen[0].width(), stride, highest);
    float total[kHeads];
    for (int head = 0; head < kHeads; head++) {
        float most = -INFINITY;
        for (int64_t lane = 0; lane < kLanes; lane++) most = highest[head][lane] > most ? highest[head][lane] : most;
        float* row = scores + head * stride;
        Vector sum = {};
        for (int64_t place = 0; place < stride; place += kLanes) {
            const Vector raw = load(row + place);
            // What is hidden weighs nothing at all: exp_of would give its least.
            const Vector weight = raw < all(-3e38f) ? Vector{} : exp_of(raw - most);
            save(row + place, weight);
            sum += weight;
        }
        total[head] = 0;
        for (int64_t lane = 0; lane < kLanes; lane++) total[head] += sum[lane];
    }
    int64_t piece = 0;
    for (; piece + 2 * kLanes <= dimension; piece += 2 * kLanes)
        sum_values<kHeads, 2>(seen, dimension, piece, scores, stride, total, output);
    for (; piece < dimension; piece += kLanes)
        sum_values<kHeads, 1>(seen, dimension, piece, scores, stride, total, output);
}

}  // namespace

extern "C" {

// Put new keys and values [tokens, key_heads, dimension] at their slots and places of the store.
void keep_packed(const float* key, int64_t key_token, int64_t key_head, const float* value, int64_t value_token,
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

// Attention of the tokens begin .. end - 1 to the prefix (keys [key_heads, dimension, prefix_room], values [key_heads,
// prefix_room, dimension], `prefix` of them), and to their rows up to their own places; of both together to the last
// `window` tokens only (0: to all). Output [tokens, heads, dimension].
void attend_packed(const float* query, int64_t query_token, int64_t query_head, const float* prefix_keys,
                     const float* prefix_values, int64_t prefix, int64_t prefix_room, const float* keys,
                     const float* values, const int64_t* slots, const int64_t* places, float* output, int64_t begin,
                     int64_t end, int64_t heads, int64_t key_heads, int64_t dimension, int64_t capacity, float scale,
                     int64_t window) {
    std::vector<float> scratch;
    const int64_t shared = heads / key_heads;
    // All tokens of a key head in turn: the prefix's keys and values of that head stay near.
    for (int64_t key_head = 0; key_head < key_heads; key_head++) {
        for (int64_t token = begin; token < end; token++) {
            const int64_t last = places[token];
            const int64_t hidden = window ? prefix + last + 1 - window : 0;  // so many tokens are out of sight
            const int64_t room = (slots[token] * key_heads + key_head) * dimension * capacity;
            const int64_t shared_room = key_head * dimension * prefix_room;
            const Seen seen[kParts] = {
                {prefix_keys + shared_room, prefix_values + shared_room, prefix_room, hidden > 0 ? hidden : 0,
                 prefix - 1},
                {keys + room, values + room, capacity, hidden > prefix ? hidden - prefix : 0, last}};
            for (int64_t done = 0; done < shared;) {
                const int64_t head = key_head * shared + done;
                const float* own_query = query + token * query_token + head * query_head;
                float* own_output = output + (token * heads + head) * dimension;
                auto attend = shared - done >= 4   ? attend_heads<4>
                              : shared - done == 3 ? attend_heads<3>
                              : shared - done == 2 ? attend_heads<2>
                                                   : attend_heads<1>;
                attend(seen, own_query, query_head, dimension, scale, own_output, scratch);
                done += shared - done >= 4 ? 4 : shared - done;
            }
        }
    }
}
}
