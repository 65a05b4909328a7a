// Vectors of 16 floats, on any processor that the compiler knows, and their exponential.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kLanes = 16;  // numbers in a vector

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));

inline Vector load(const float* from) {
    Vector result;
    std::memcpy(&result, from, sizeof result);
    return result;
}

inline void save(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

inline Vector all(float value) { return Vector{} + value; }

// exp(x) to about one unit in the last place: x = n ln 2 + r, a polynomial of r, and n into the exponent.
inline Vector exp_of(Vector x) {
    const Vector least = all(-87.0f), most = all(88.0f);
    x = x < least ? least : x;
    x = x > most ? most : x;
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: added, it rounds to a whole number
    const Vector shifted = x * 1.44269504088896341f + magic;
    const Vector whole = shifted - magic;
    const Vector rest = (x - whole * 0.693145751953125f) - whole * 1.42860682030941723212e-6f;
    Vector sum = all(1.0f / 5040);
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    Integers bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const Integers power = (bits << 23) + (127 << 23);
    Vector scale;
    std::memcpy(&scale, &power, sizeof scale);
    return sum * scale;
}

}  // namespace
