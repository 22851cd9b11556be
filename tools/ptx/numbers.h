// SPDX-License-Identifier: Apache-2.0
// Numbers as PTX has them.
#pragma once
#include "state.h"

static inline float asf(u32 x) { float f; memcpy(&f, &x, 4); return f; }
static inline u32 asu(float f) { u32 x; memcpy(&x, &f, 4); return x; }
static inline u32 canon(float f) { return f != f ? 0x7FFFFFFFu : asu(f); }
static inline float ftz(float f) { return (asu(f) & 0x7F800000u) == 0 ? asf(asu(f) & 0x80000000u) : f; }
static inline float fin(u32 x, int z) { return z ? ftz(asf(x)) : asf(x); }
static inline u32 fout(float f, int z) { return canon(z ? ftz(f) : f); }

static inline u32 nudge(Launch *L, float f, u32 key, int z) { // the result of an approximation
  u32 bits = fout(f, z);
  if (L->approximate && (bits & 0x7F800000u) != 0x7F800000u && (bits & 0x7F800000u) > 0x00800000u) {
    u32 h = (key ^ (u32)L->seed) * 0x9E3779B1u;
    h ^= h >> 15;
    bits += (h >> 7) % 3 - 1;
  }
  return bits;
}

static inline u16 bf16(u32 x) {
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return (u16)((x + 0x7FFFu + (x >> 16 & 1)) >> 16);
}

static inline u32 fmin_ptx(u32 a, u32 b, int nan) {
  float x = asf(a), y = asf(b);
  if (x != x || y != y) return nan || (x != x && y != y) ? 0x7FFFFFFFu : x != x ? b : a;
  if (x == y) return a | b; // -0 below 0
  return x < y ? a : b;
}

static inline u32 fmax_ptx(u32 a, u32 b, int nan) {
  float x = asf(a), y = asf(b);
  if (x != x || y != y) return nan || (x != x && y != y) ? 0x7FFFFFFFu : x != x ? b : a;
  if (x == y) return a & b;
  return x > y ? a : b;
}

static inline u32 bfe_signed(u32 a, u32 at, u32 bits) {
  if (!bits) return 0;
  u32 top = at + bits - 1 > 31 ? 31 : at + bits - 1, sign = a >> top & 1 ? ~0u : 0;
  u32 mask = bits > 31 ? ~0u : (1u << bits) - 1, field = at > 31 ? 0 : a >> at;
  u32 held = at > 31 ? 0 : 32 - at, known = held > 31 ? ~0u : (1u << held) - 1;
  return (field & mask & known) | (sign & ~(mask & known));
}

static inline u32 reversed(u32 a) {
  u32 r = 0;
  for (int k = 0; k < 32; k++) r |= (a >> k & 1) << (31 - k);
  return r;
}
