// SPDX-License-Identifier: Apache-2.0
// What an access to memory costs: sectors, lines, conflicts.
#pragma once
#include "checks.h"

static void count_global(Launch *L, Block *B, const u64 *address, u32 m, int bytes, int kind, int pc) {
  // kind 0 load, 1 store
  Counters *c = L->counters;
  u64 seen[128], lines[128], unique[32];
  int n = 0, nl = 0, nu = 0;
  LANES if (ON) {
    for (u64 s = address[l] >> 5; s <= (address[l] + bytes - 1) >> 5; s++) {
      int i = n;
      while (i > 0 && seen[i - 1] != s) i--;
      if (i == 0) seen[n++] = s;
      u64 line = s >> 2;
      i = nl;
      while (i > 0 && lines[i - 1] != line) i--;
      if (i == 0) lines[nl++] = line;
    }
    int i = nu;
    while (i > 0 && unique[i - 1] != address[l]) i--;
    if (i == 0) unique[nu++] = address[l];
  }
  for (int i = 0; i < n; i++) {
    Area *a = find_area(L, seen[i] << 5);
    if (!a || !a->sectors) continue;
    i64 at = (i64)(seen[i] - (a->space >> 5));
    if (at < 0 || (u64)at > (a->bytes + 31) >> 5) continue;
    if (a->sectors[at] != B->id + 1) a->sectors[at] = B->id + 1, c->block_sectors++;
    a->touched[at] |= kind ? 2 : 1;
  }
  int active = __builtin_popcount(m);
  int ideal = (nu * bytes + 31) / 32;
  if (kind) {
    c->store_requests++, c->store_lanes += active, c->store_bytes += (u64)active * bytes, c->store_sectors += n, c->store_ideal += ideal, c->store_lines += nl;
  } else {
    c->load_requests++, c->load_lanes += active, c->load_bytes += (u64)active * bytes, c->load_sectors += n, c->load_ideal += ideal, c->load_lines += nl;
    if (nu == 1 && active > 1) c->uniform_loads++;
  }
  if (L->sectors_by_pc) L->sectors_by_pc[pc] += n;
}

static void count_shared(Launch *L, const u32 *address, u32 m, int bytes) {
  Counters *c = L->counters;
  int group = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  int waves = 0, ideal = 0;
  for (int first = 0; first < 32; first += group) {
    u32 words[128];
    int n = 0, banks[32] = {0}, most = 0;
    for (int l = first; l < first + group; l++)
      if (ON)
        for (u32 s = address[l] >> 2; s <= (address[l] + bytes - 1) >> 2; s++) {
          int i = n;
          while (i > 0 && words[i - 1] != s) i--;
          if (i == 0) {
            words[n++] = s;
            if (++banks[s & 31] > most) most = banks[s & 31];
          }
        }
    waves += most;
    ideal += (n + 31) / 32;
  }
  c->shared_requests++, c->shared_wavefronts += waves, c->shared_ideal += ideal;
}
