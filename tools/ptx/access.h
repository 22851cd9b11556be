// SPDX-License-Identifier: Apache-2.0
// Loads, stores and atomics, checked and counted.
#pragma once
#include "counting.h"
#include "numbers.h"

static int access_global(Launch *L, Block *B, Warp *w, const Ins *i, int pc, u32 m, int warp, int write, u64 *rng) {
  const u64 *base = w->r64 + (u64)i->s[0] * 32;
  int bytes = i->width * i->count;
  u64 address[32];
  LANES address[l] = base[l] + i->offset;
  if (L->counting) {
    if (m) count_global(L, B, address, m, bytes, write, pc);
    else L->counters->empty_loads++;
  }
  u32 good = 0;
  u8 *where[32];
  LANES if (ON) {
    int thread = warp * 32 + l;
    Area *a = find_area(L, address[l]);
    if (!a) {
      report(L, E_NO_AREA, pc, write, B->id, thread, address[l]);
      continue;
    }
    i64 at = (i64)(address[l] - a->space);
    if (at < 0 || (u64)at + bytes > a->bytes) {
      Event *e = report(L, E_BOUNDS, pc, write, B->id, thread, address[l]);
      if (e) e->value = (u64)at, e->other = a->bytes;
      continue;
    }
    if ((at + (a->space & 511)) % bytes) report(L, E_MISALIGNED, pc, write, B->id, thread, address[l]);
    good |= 1u << l;
    where[l] = a->host + at;
  }
  if (!write) {
    LANES if (ON) for (int k = 0; k < i->count; k++) {
      u64 v = 0;
      if (good >> l & 1) {
        memcpy(&v, where[l] + k * i->width, i->width);
        Area *a = find_area(L, address[l]);
        if (a->poisoned) {
          u64 p = (u64)(where[l] + k * i->width - (a->host - (a->space & 511))) & 3;
          u32 word = 0;
          if (i->width >= 4) word = (u32)v;
          else { u8 *from = where[l] + k * i->width - p; if (from >= a->host && from + 4 <= a->host + a->bytes) memcpy(&word, from, 4); }
          int bad = word == POISON;
          if (i->width == 1 && a->granule == 1 && (v == 0xAD || v == 0xDB || v == 0xBA || v == 0x7F)) bad = 1;
          if (bad) report(L, E_UNINITIALISED, pc, 0, B->id, warp * 32 + l, address[l] + k * i->width);
        }
      }
      if (i->sign) v = i->width == 1 ? (u64)(i64)(int8_t)v : i->width == 2 ? (u64)(i64)(int16_t)v : (u64)(i64)(i32)v;
      if (i->d[k] >= 0) {
        if (i->cls == 8) w->r64[(u64)i->d[k] * 32 + l] = v;
        else w->r32[(u64)i->d[k] * 32 + l] = (u32)v;
      }
    }
    if (L->races) LANES if (good >> l & 1) {
      Area *a = find_area(L, address[l]);
      if (a->shadow) check_global(L, B, w, pc, warp * 32 + l, a, address[l] - a->space, bytes, 0, 0);
    }
  } else {
    u8 values[32][32];
    LANES if (good >> l & 1) for (int k = 0; k < i->count; k++) {
      u64 v = i->cls == 8 ? w->r64[(u64)i->d[k] * 32 + l] : w->r32[(u64)i->d[k] * 32 + l];
      memcpy(values[l] + k * i->width, &v, i->width);
    }
    if (L->races) LANES if (good >> l & 1) {
      for (int j = 0; j < l; j++)
        if (good >> j & 1 && address[j] == address[l]) {
          int same = !memcmp(values[l], values[j], bytes);
          report(L, same ? E_LANES_SAME : E_LANES_WW, pc, -1, B->id, warp * 32 + l, address[l]);
          break;
        }
      Area *a = find_area(L, address[l]);
      if (a->shadow) check_global(L, B, w, pc, warp * 32 + l, a, address[l] - a->space, bytes, 1, !memcmp(where[l], values[l], bytes));
    }
    int backwards = L->random && next_random(rng) & 1; // which of several lanes wins is open
    for (int n = 0; n < 32; n++) {
      int l = backwards ? 31 - n : n;
      if (good >> l & 1) memcpy(where[l], values[l], bytes);
    }
  }
  return 0;
}

static void access_shared(Launch *L, Block *B, Warp *w, const Ins *i, int pc, u32 m, int warp, int write, u64 *rng) {
  const u32 *base = w->r32 + (u64)i->s[0] * 32;
  int bytes = i->width * i->count;
  u32 address[32], good = 0;
  LANES address[l] = base[l] + (u32)i->offset;
  if (L->counting && m) count_shared(L, address, m, bytes);
  LANES if (ON) {
    int thread = warp * 32 + l;
    u32 at = address[l] - L->shared_base;
    if (at >= L->shared || at + bytes > L->shared) {
      Event *e = report(L, E_SHARED_BOUNDS, pc, write, B->id, thread, address[l]);
      if (e) e->value = at, e->other = L->shared;
      continue;
    }
    if (at % bytes) report(L, E_MISALIGNED, pc, write, B->id, thread, address[l]);
    good |= 1u << l;
  }
  if (write) {
    int backwards = L->random && next_random(rng) & 1;
    for (int n = 0; n < 32; n++) {
      int l = backwards ? 31 - n : n;
      if (!(good >> l & 1)) continue;
      u8 *to = B->shared + (address[l] - L->shared_base), value[16];
      for (int k = 0; k < i->count; k++) {
        u64 v = i->cls == 8 ? w->r64[(u64)i->d[k] * 32 + l] : w->r32[(u64)i->d[k] * 32 + l];
        memcpy(value + k * i->width, &v, i->width);
      }
      // Several lanes may write what is the same anyway.
      Local *s = &B->local[address[l] - L->shared_base];
      if (L->races && !(s->wthread && s->wpc == (u32)pc && s->wepoch == B->epoch && (s->wthread - 1) / 32 == (u32)warp && !memcmp(to, value, bytes)))
        check_shared(L, B, w, pc, warp * 32 + l, address[l] - L->shared_base, bytes, 1, !memcmp(to, value, bytes));
      memcpy(to, value, bytes);
    }
  } else {
    LANES if (ON) {
      if (L->races && good >> l & 1) check_shared(L, B, w, pc, warp * 32 + l, address[l] - L->shared_base, bytes, 0, 0);
      for (int k = 0; k < i->count; k++) {
        u64 v = 0;
        if (good >> l & 1) memcpy(&v, B->shared + (address[l] - L->shared_base) + k * i->width, i->width);
        if (i->sign) v = i->width == 1 ? (u64)(i64)(int8_t)v : i->width == 2 ? (u64)(i64)(int16_t)v : (u64)(i64)(i32)v;
        if (i->cls == 8) w->r64[(u64)i->d[k] * 32 + l] = v;
        else w->r32[(u64)i->d[k] * 32 + l] = (u32)v;
      }
    }
  }
}

enum { A_ADD, A_MIN_S, A_MAX_S, A_MIN_U, A_MAX_U, A_AND, A_OR, A_XOR, A_EXCH, A_CAS, A_ADD_F };

static void atomic(Launch *L, Block *B, Warp *w, const Ins *i, int pc, u32 m, int warp, u64 *rng) {
  const u64 *base = w->r64 + (u64)i->s[0] * 32;
  Counters *c = L->counters;
  u64 unique[32];
  int times[32], nu = 0;
  LANES if (ON) {
    u64 address = base[l] + i->offset;
    int k = 0;
    while (k < nu && unique[k] != address) k++;
    if (k == nu) unique[nu] = address, times[nu++] = 0;
    times[k]++;
  }
  if (L->counting) {
    if (!m) c->atomic_empty++;
    else {
      int most = 0;
      for (int k = 0; k < nu; k++) if (times[k] > most) most = times[k];
      c->atomic_requests++, c->atomic_lanes += __builtin_popcount(m), c->atomic_addresses += nu, c->atomic_depth += most;
      LANES if (ON) {
        Area *a = find_area(L, base[l]);
        if (a && a->touched && base[l] >= a->space && base[l] - a->space < a->bytes) {
          u64 s = (base[l] >> 5) - (a->space >> 5);
          a->touched[s] |= 3;
        }
      }
    }
  }
  int start = L->random ? next_random(rng) % 32 : 0, step = L->random && next_random(rng) % 2 ? 31 : 1;
  for (int n = 0, l = start; n < 32; n++, l = (l + step) % 32) if (ON) { // in any order of the lanes
    int thread = warp * 32 + l;
    u64 address = base[l] + i->offset;
    Area *a = find_area(L, address);
    if (!a) {
      report(L, E_NO_AREA, pc, 2, B->id, thread, address);
      continue;
    }
    i64 at = (i64)(address - a->space);
    if (at < 0 || (u64)at + i->width > a->bytes) {
      Event *e = report(L, E_BOUNDS, pc, 2, B->id, thread, address);
      if (e) e->value = (u64)at, e->other = a->bytes;
      continue;
    }
    if ((at + (a->space & 511)) % i->width) report(L, E_MISALIGNED, pc, 2, B->id, thread, address);
    u64 old = 0, v = i->cls == 8 ? w->r64[(u64)i->s[1] * 32 + l] : w->r32[(u64)i->s[1] * 32 + l], x;
    memcpy(&old, a->host + at, i->width);
    if (a->poisoned && (u32)old == POISON) report(L, E_UNINITIALISED, pc, 2, B->id, thread, address);
    i64 so = i->width == 4 ? (i64)(i32)old : (i64)old, sv = i->width == 4 ? (i64)(i32)v : (i64)v;
    switch (i->kind) {
    case A_ADD: x = old + v; break;
    case A_MIN_S: x = so < sv ? old : v; break;
    case A_MAX_S: x = so > sv ? old : v; break;
    case A_MIN_U: x = old < v ? old : v; break;
    case A_MAX_U: x = old > v ? old : v; break;
    case A_AND: x = old & v; break;
    case A_OR: x = old | v; break;
    case A_XOR: x = old ^ v; break;
    case A_EXCH: x = v; break;
    case A_CAS: x = old == v ? (i->cls == 8 ? w->r64[(u64)i->s[2] * 32 + l] : w->r32[(u64)i->s[2] * 32 + l]) : old; break;
    default: x = canon(asf((u32)old) + asf((u32)v)); break;
    }
    memcpy(a->host + at, &x, i->width);
    if (L->races && a->shadow) check_global(L, B, w, pc, thread, a, at, i->width, 2, 0);
    if (i->d[0] >= 0) {
      if (i->cls == 8) w->r64[(u64)i->d[0] * 32 + l] = old;
      else w->r32[(u64)i->d[0] * 32 + l] = (u32)old;
    }
  }
}
