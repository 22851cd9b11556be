// SPDX-License-Identifier: Apache-2.0
// Executes decoded PTX, block by block and warp by warp, with checks of memory, races and initialisation, and counts what
// costs time. execute.py decodes, allocates and reads the results.
#include "warp.h"

static void start_block(Launch *L, Block *B, u32 id, u64 *rng) {
  B->id = id, B->epoch = 1, B->running = L->warps, B->waiting = 0;
  u64 garbage = next_random(rng);
  memset(B->shared, (int)(garbage & 255), L->shared);
  memset(B->local, 0, sizeof(Local) * L->shared);
  u32 at[3] = {id % L->grid[0], id / L->grid[0] % L->grid[1], id / L->grid[0] / L->grid[1]};
  for (int k = 0; k < L->warps; k++) {
    Warp *w = &B->warps[k];
    w->alive = w->active = ~0u, w->blocked = 0, w->pc = 0, w->next = 0x7FFFFFFF, w->state = 0, w->sync = 1;
    memset(w->lanepc, 0, sizeof w->lanepc);
    // Registers that nobody wrote hold something else each time.
    for (int r = 0; r < L->fixed32; r++) { u32 v = (u32)(garbage + r * 0x9E3779B1u); LANES R32(r)[l] = v; }
    for (int r = 0; r < L->fixed64; r++) { u64 v = garbage + r * 0x9E3779B1u; LANES R64(r)[l] = v; }
    for (int r = L->fixed32; r < L->r32; r++) { u32 v = L->init32[r]; LANES R32(r)[l] = v; }
    for (int r = L->fixed64; r < L->r64; r++) { u64 v = L->init64[r]; LANES R64(r)[l] = v; }
    for (int r = 0; r < L->preds; r++) w->p[r] = (u32)(garbage >> (r & 15));
    LANES {
      int t = k * 32 + l;
      if (L->tid[0] >= 0) R32(L->tid[0])[l] = t;
      if (L->tid[1] >= 0) R32(L->tid[1])[l] = 0;
      if (L->tid[2] >= 0) R32(L->tid[2])[l] = 0;
      if (L->laneid >= 0) R32(L->laneid)[l] = l;
      for (int x = 0; x < 3; x++) {
        if (L->ctaid[x] >= 0) R32(L->ctaid[x])[l] = at[x];
        if (L->nctaid[x] >= 0) R32(L->nctaid[x])[l] = L->grid[x];
        if (L->ntid[x] >= 0) R32(L->ntid[x])[l] = x ? 1 : L->warps * 32;
      }
    }
  }
  if (L->counting) L->counters->blocks++;
}

int launch(Launch *L) {
  int resident = L->resident < 1 ? 1 : L->resident;
  u64 rng = L->seed * 0x9E3779B97F4A7C15ull + 0x1234567;
  for (int k = 0; k < 8; k++) next_random(&rng);
  Block *blocks = calloc(resident, sizeof(Block));
  for (int b = 0; b < resident; b++) {
    Block *B = &blocks[b];
    B->warps = calloc(L->warps, sizeof(Warp));
    B->shared = malloc(L->shared + 16), B->local = malloc(sizeof(Local) * (L->shared + 1));
    for (int k = 0; k < L->warps; k++) {
      Warp *w = &B->warps[k];
      w->r32 = aligned_alloc(64, (size_t)(L->r32 + 1) * 128);
      w->r64 = aligned_alloc(64, (size_t)(L->r64 + 1) * 256);
      w->p = calloc(L->preds + 1, 4);
    }
  }
  u64 next = 0, total = 0;
  int alive = 0;
  for (int b = 0; b < resident; b++) {
    if (next < L->blocks) start_block(L, &blocks[b], L->order[next++], &rng), alive++;
    else blocks[b].running = 0;
  }
  while (alive) {
    for (int b = 0; b < resident; b++) {
      if (L->random && resident > 1 && next_random(&rng) % 3 == 0) continue;
      Block *B = &blocks[b];
      if (!B->running) continue;
      int first = L->random ? next_random(&rng) % L->warps : 0;
      for (int n = 0; n < L->warps && B->running; n++) {
        int k = (first + n) % L->warps;
        Warp *w = &B->warps[k];
        if (w->state) continue;
        u64 quantum = L->random ? 1 + next_random(&rng) % (next_random(&rng) % 4 ? 40 : 2000) : ~0ull >> 1;
        total += run_warp(L, B, k, quantum, &rng);
        if (w->state == 1) B->waiting++;
        if (w->state == 2) B->running--;
        if (B->waiting && B->waiting == B->running) {
          B->waiting = 0, B->epoch++;
          if (B->running < (u32)L->warps) report(L, E_BARRIER_EXITED, w->pc, -1, B->id, 0, 0);
          for (int j = 0; j < L->warps; j++) if (B->warps[j].state == 1) B->warps[j].state = 0;
        }
      }
      if (!B->running) {
        if (next < L->blocks) start_block(L, B, L->order[next++], &rng);
        else alive--;
      }
      if (total > L->limit) {
        report(L, E_RUNAWAY, B->warps[0].pc, -1, B->id, 0, total);
        alive = 0;
        break;
      }
    }
  }
  for (int b = 0; b < resident; b++) {
    for (int k = 0; k < L->warps; k++) free(blocks[b].warps[k].r32), free(blocks[b].warps[k].r64), free(blocks[b].warps[k].p);
    free(blocks[b].warps), free(blocks[b].shared), free(blocks[b].local);
  }
  free(blocks);
  return L->event_count;
}
