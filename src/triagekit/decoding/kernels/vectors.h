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

// 2^x for x up to zero, to about one and a half units in the last place; 0 below the exponents that a float has. The
// polynomial is the best of its degree between -1/2 and 1/2 (relative error 9.1e-8), by Lawson's algorithm.
inline Vector power_of_two(Vector x) {
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: added, it rounds to a whole number
    const Vector shifted = x + magic;
    const Vector rest = x - (shifted - magic);
    Vector sum = all(0.001326472731307149f);
    sum = sum * rest + 0.009671512991189957f;
    sum = sum * rest + 0.05550733581185341f;
    sum = sum * rest + 0.24022242426872253f;
    sum = sum * rest + 0.6931470036506653f;
    sum = sum * rest + 1.0f;
    Integers number, exponent;
    std::memcpy(&number, &sum, sizeof number);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    number += exponent << 23;
    Vector power;
    std::memcpy(&power, &number, sizeof power);
    return x < all(-126.0f) ? Vector{} : power;
}

// Sum and maximum of a vector by halves: lane by lane, each would wait for the one before.
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16)));

inline float sum_of(Vector numbers) {
    Half halves[2];
    std::memcpy(halves, &numbers, sizeof numbers);
    const Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    const Quarter quarter = quarters[0] + quarters[1];
    return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

inline float highest_of(Vector numbers) {
    Half halves[2];
    std::memcpy(halves, &numbers, sizeof numbers);
    const Half half = halves[0] > halves[1] ? halves[0] : halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    const Quarter quarter = quarters[0] > quarters[1] ? quarters[0] : quarters[1];
    const float left = quarter[0] > quarter[1] ? quarter[0] : quarter[1];
    const float right = quarter[2] > quarter[3] ? quarter[2] : quarter[3];
    return left > right ? left : right;
}

}  // namespace
