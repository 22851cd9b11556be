// SPDX-License-Identifier: Apache-2.0
// Races and memory that nobody wrote, by what each byte was last used for.
#pragma once
#include "state.h"

static inline Area *find_area(Launch *L, u64 address) {
  u64 n = address >> 40;
  return n >= 1 && n <= (u64)L->area_count ? &L->areas[n - 1] : NULL;
}

static void check_global(Launch *L, Block *B, Warp *w, int pc, int thread, Area *a, u64 at, int bytes, int write,
                         int same) {
  // write: 0 read, 1 write, 2 atomic. same: what is written was there.
  u32 b = B->id + 1, t = thread + 1, ep = B->epoch;
  int g = a->granule;
  for (u64 i = at / g; i < (at + bytes + g - 1) / g; i++) {
    Shadow *s = (Shadow *)a->shadow + i;
    u64 address = a->space + i * g;
    Event *e;
    if (s->wblock && write != 2 && !(s->wblock == b && s->wthread == t)) {
      int other = s->wblock != b, warps = (s->wthread - 1) / 32 != (t - 1) / 32;
      if (other || (warps && s->wepoch == ep)) {
        int type = write ? (same ? E_SAME_VALUE : E_RACE_WW) : E_RACE_RW;
        if ((e = report(L, type, pc, s->wpc, B->id, thread, address)))
          e->otherblock = s->wblock - 1, e->otherthread = s->wthread - 1;
      } else if (s->wepoch == ep && !warps && s->wpc != (u32)pc) {
        if ((e = report(L, write && same ? E_SAME_VALUE : E_WARP_RACE, pc, s->wpc, B->id, thread, address)))
          e->otherblock = s->wblock - 1, e->otherthread = s->wthread - 1;
      }
    }
    if (write == 2 && s->wblock && (s->wblock != b || ((s->wthread - 1) / 32 != (t - 1) / 32 && s->wepoch == ep))) {
      if ((e = report(L, E_ATOMIC_WRITE, pc, s->wpc, B->id, thread, address)))
        e->otherblock = s->wblock - 1, e->otherthread = s->wthread - 1;
    }
    if (write && s->rblock) {
      int other = s->rblock != b, warps = s->rthread == ~0u || (s->rthread - 1) / 32 != (t - 1) / 32;
      if (other || (warps && s->repoch == ep)) {
        int type = write == 2 ? E_ATOMIC_READ : same ? E_SAME_VALUE : E_RACE_RW;
        if ((e = report(L, type, pc, s->rpc, B->id, thread, address)))
          e->otherblock = s->rblock - 1, e->otherthread = s->rthread - 1;
      }
    }
    if (write != 2 && s->ablock && !(s->ablock == b && s->athread == t)) {
      if (s->ablock != b || (s->athread - 1) / 32 != (t - 1) / 32)
        if ((e = report(L, write ? E_ATOMIC_WRITE : E_ATOMIC_READ, pc, s->apc, B->id, thread, address)))
          e->otherblock = s->ablock - 1, e->otherthread = s->athread - 1;
    }
    if (write == 1) s->wblock = b, s->wthread = t, s->wepoch = ep, s->wpc = pc;
    else if (write == 2) s->ablock = b, s->athread = t, s->apc = pc;
    else {
      if (!s->rblock || (s->rblock == b && s->repoch != ep)) s->rblock = b, s->rthread = t;
      else if (s->rblock != b) s->rblock = ~0u;
      else if (s->rthread != t && (s->rthread - 1) / 32 != (t - 1) / 32) s->rthread = ~0u;
      s->repoch = ep, s->rpc = pc;
    }
  }
}

static void check_shared(Launch *L, Block *B, Warp *w, int pc, int thread, u32 at, int bytes, int write, int same) {
  u32 t = thread + 1, ep = B->epoch, warp = thread / 32;
  for (u32 i = at; i < at + bytes; i++) {
    Local *s = &B->local[i];
    Event *e;
    if (!write && !s->wthread) report(L, E_SHARED_UNINITIALISED, pc, -1, B->id, thread, L->shared_base + i);
    if (s->wthread && s->wepoch == ep && s->wthread != t) {
      if ((s->wthread - 1) / 32 != warp) {
        if ((e = report(L, write && same ? E_SHARED_SAME : E_SHARED_RACE, pc, s->wpc, B->id, thread, L->shared_base + i)))
          e->otherblock = B->id, e->otherthread = s->wthread - 1;
      } else if (s->wsync == w->sync && !(write && s->wpc == (u32)pc)) {
        if ((e = report(L, E_SHARED_WARP_RACE, pc, s->wpc, B->id, thread, L->shared_base + i)))
          e->otherblock = B->id, e->otherthread = s->wthread - 1;
      } else if (write && s->wpc == (u32)pc && s->wsync == w->sync) {
        report(L, E_SHARED_LANES, pc, s->wpc, B->id, thread, L->shared_base + i);
      }
    }
    if (write && s->repoch == ep && s->rwarps) {
      if (s->rwarps & ~(1u << warp)) {
        if ((e = report(L, same ? E_SHARED_SAME : E_SHARED_RACE, pc, s->rpc, B->id, thread, L->shared_base + i))) e->otherblock = B->id, e->otherthread = ~0u;
      } else if (s->rsync == w->sync && (s->rlanes & ~(1u << thread % 32))) {
        if ((e = report(L, E_SHARED_WARP_RACE, pc, s->rpc, B->id, thread, L->shared_base + i))) e->otherblock = B->id, e->otherthread = ~0u;
      }
    }
    if (write) s->wthread = t, s->wepoch = ep, s->wsync = w->sync, s->wpc = pc;
    else {
      if (s->repoch != ep) s->rwarps = 0, s->rlanes = 0, s->repoch = ep;
      if (s->rwarps != 1u << warp || s->rsync != w->sync) s->rlanes = 0;
      s->rwarps |= 1u << warp, s->rlanes |= 1u << thread % 32, s->rsync = w->sync, s->rpc = pc;
    }
  }
}
