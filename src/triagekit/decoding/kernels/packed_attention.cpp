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

const Integers kInOrder = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr int64_t kBlock = 32;  // keys scored at once; the places of a slot are a multiple of it

// Keys [dimension, capacity] and values [capacity, dimension] of one key head; the keys first .. last are seen.
struct Seen {
    const float* keys;
    const float* values;
    int64_t capacity, first, last;

    int64_t from() const { return first / kBlock * kBlock; }
    int64_t width() const { return last < first ? 0 : (last / kBlock + 1) * kBlock - from(); }
};

// Scaled scores of kRows queries, minus infinity where a key of a block is not seen, into `scores` [kRows, stride].
template <int kRows>
void score(const Seen& seen, const float* const* queries, int64_t dimension, float scale, float* scores, int64_t stride,
           Vector* highest) {
    const int64_t from = seen.from(), width = seen.width();
    for (int64_t block = 0; block < width; block += kBlock) {
        Vector sums[kRows][2] = {};
        const float* key = seen.keys + from + block;
        for (int64_t place = 0; place < dimension; place++, key += seen.capacity) {
            const Vector left = load(key), right = load(key + kLanes);
            for (int row = 0; row < kRows; row++) {
                const float weight = queries[row][place];
                sums[row][0] += left * weight;
                sums[row][1] += right * weight;
            }
        }
        const bool whole = from + block >= seen.first && from + block + kBlock - 1 <= seen.last;
        for (int row = 0; row < kRows; row++) {
            float* own = scores + row * stride + block;
            for (int half = 0; half < 2; half++) {
                Vector scaled = sums[row][half] * scale;
                if (!whole) {
                    const Integers place = kInOrder + static_cast<int32_t>(from + block + half * kLanes);
                    const Integers hidden = (place < static_cast<int32_t>(seen.first)) | (place > static_cast<int32_t>(seen.last));
                    scaled = hidden ? all(-INFINITY) : scaled;
                }
                save(own + half * kLanes, scaled);
                highest[row] = scaled > highest[row] ? scaled : highest[row];
            }
        }
    }
}

// Scores [width] to weights, in place; returns their sum.
float weigh(float* scores, int64_t width, float highest) {
    Vector sum = {};
    for (int64_t place = 0; place < width; place += kLanes) {
        // What is hidden, at minus infinity, weighs nothing at all.
        const Vector weight = power_of_two(load(scores + place) - highest);
        save(scores + place, weight);
        sum += weight;
    }
    return sum_of(sum);
}

// Add the weighted values of `seen`, kPieces vectors from dimension `piece` on.
template <int kRows, int kPieces>
void add_values(const Seen& seen, int64_t dimension, int64_t piece, const float* weights, int64_t stride,
                Vector (*sums)[kPieces]) {
    weights += seen.first - seen.from();
    const float* value = seen.values + seen.first * dimension + piece;
    for (int64_t place = seen.first; place <= seen.last; place++, value += dimension, weights++) {
        Vector numbers[kPieces];
        for (int next = 0; next < kPieces; next++) numbers[next] = load(value + next * kLanes);
        for (int row = 0; row < kRows; row++)
            for (int next = 0; next < kPieces; next++) sums[row][next] += numbers[next] * weights[row * stride];
    }
}

// kHeads query heads that share a key head, of kTokens tokens that see the same prefix. Two tokens at once load the prefix,
// which is larger than the nearest cache, half as often. A token's numbers do not depend on who is with it.
template <int kHeads, int kTokens>
struct Group {
    static constexpr int kRows = kHeads * kTokens;
    const Seen& prefix;
    const Seen* own;  // [kTokens]
    const float* queries[kRows];
    float* outputs[kRows];
    int64_t dimension, stride;
    float* scores;  // [kRows, stride]
    float total[kRows];

    void attend(float scale) {
        Vector highest[kRows];
        for (int row = 0; row < kRows; row++) highest[row] = all(-INFINITY);
        score<kRows>(prefix, queries, dimension, scale, scores, stride, highest);
        for (int token = 0; token < kTokens; token++)
            score<kHeads>(own[token], queries + token * kHeads, dimension, scale, behind(token), stride,
                          highest + token * kHeads);
        for (int row = 0; row < kRows; row++)
            total[row] = weigh(scores + row * stride, prefix.width() + own[row / kHeads].width(), highest_of(highest[row]));
        int64_t piece = 0;
        for (; piece + 2 * kLanes <= dimension; piece += 2 * kLanes) sum<2>(piece);
        for (; piece < dimension; piece += kLanes) sum<1>(piece);
    }

    // The scores of a token's own row, which stand behind those of the prefix.
    float* behind(int token) const { return scores + token * kHeads * stride + prefix.width(); }

    template <int kPieces>
    void sum(int64_t piece) const {
        Vector sums[kRows][kPieces] = {};
        add_values<kRows, kPieces>(prefix, dimension, piece, scores, stride, sums);
        for (int token = 0; token < kTokens; token++)
            add_values<kHeads, kPieces>(own[token], dimension, piece, behind(token), stride, sums + token * kHeads);
        for (int row = 0; row < kRows; row++)
            for (int next = 0; next < kPieces; next++)
                save(outputs[row] + piece + next * kLanes, sums[row][next] * (1.0f / total[row]));
    }
};

// Where the tokens and heads of queries and outputs lie.
struct Place {
    const float* query;
    float* output;
    int64_t query_token, query_head, heads, dimension;
};

template <int kHeads, int kTokens>
void attend_group(const Seen& prefix, const Seen* own, const Place& place, int64_t token, int64_t head, float scale,
                  std::vector<float>& scratch) {
    int64_t widest = 0;
    for (int next = 0; next < kTokens; next++) widest = own[next].width() > widest ? own[next].width() : widest;
    Group<kHeads, kTokens> group{prefix, own, {}, {}, place.dimension, prefix.width() + widest, nullptr, {}};
    scratch.resize(static_cast<size_t>(group.kRows * group.stride));
    group.scores = scratch.data();
    for (int row = 0; row < group.kRows; row++) {
        const int64_t of_token = token + row / kHeads, of_head = head + row % kHeads;
        group.queries[row] = place.query + of_token * place.query_token + of_head * place.query_head;
        group.outputs[row] = place.output + (of_token * place.heads + of_head) * place.dimension;
    }
    group.attend(scale * 1.44269504088896341f);  // log2 e: weights are powers of two
}

// All heads that share a key head, up to four at once.
template <int kTokens>
void attend_tokens(const Seen& prefix, const Seen* own, const Place& place, int64_t token, int64_t head, int64_t shared,
                   float scale, std::vector<float>& scratch) {
    for (int64_t done = 0; done < shared;) {
        const int64_t left = shared - done;
        auto attend = left >= 4   ? attend_group<4, kTokens>
                      : left == 3 ? attend_group<3, kTokens>
                      : left == 2 ? attend_group<2, kTokens>
                                  : attend_group<1, kTokens>;
        attend(prefix, own, place, token, head + done, scale, scratch);
        done += left >= 4 ? 4 : left;
    }
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
    const Place place = {query, output, query_token, query_head, heads, dimension};
    // All tokens of a key head in turn: the prefix's keys and values of that head stay near.
    for (int64_t key_head = 0; key_head < key_heads; key_head++) {
        const int64_t shared_room = key_head * dimension * prefix_room;
        const auto hidden = [&](int64_t token) {  // so many tokens are out of its sight
            return window ? prefix + places[token] + 1 - window : 0;
        };
        const auto seen_prefix = [&](int64_t token) {
            const int64_t first = hidden(token) > 0 ? hidden(token) : 0;
            return Seen{prefix_keys + shared_room, prefix_values + shared_room, prefix_room, first, prefix - 1};
        };
        const auto seen_own = [&](int64_t token) {
            const int64_t room = (slots[token] * key_heads + key_head) * dimension * capacity;
            const int64_t first = hidden(token) > prefix ? hidden(token) - prefix : 0;
            return Seen{keys + room, values + room, capacity, first, places[token]};
        };
        for (int64_t token = begin; token < end;) {
            const Seen before = seen_prefix(token);
            const bool two = token + 1 < end && seen_prefix(token + 1).first == before.first;
            const Seen own[2] = {seen_own(token), seen_own(two ? token + 1 : token)};
            auto attend = two ? attend_tokens<2> : attend_tokens<1>;
            attend(before, own, place, token, key_head * shared, shared, scale, scratch);
            token += two ? 2 : 1;
        }
    }
}
}
