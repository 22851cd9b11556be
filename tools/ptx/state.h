// SPDX-License-Identifier: Apache-2.0
// What is executed and on what: instructions, launches, blocks, warps; and the events that are reported. execute.py mirrors
// the structures in its ctypes classes.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

// Names are read by parse.py: the order is the encoding.
// clang-format off
#define OPS(X) \
  X(nop) X(mov32) X(mov64) X(movp) X(unpack32) X(unpack64) X(pack32) X(pack64) X(param32) X(param64) X(param32s64) \
  X(add32) X(sub32) X(mul32) X(mad32) X(mulhi_s32) X(mulhi_u32) X(mulw_s32) X(mulw_u32) X(madw_s32) X(madw_u32) \
  X(div_s32) X(div_u32) X(rem_s32) X(rem_u32) X(min_s32) X(max_s32) X(min_u32) X(max_u32) X(and32) X(or32) X(xor32) \
  X(not32) X(shl32) X(shr_s32) X(shr_u32) X(neg32) X(abs32) X(bfe_u32) X(bfe_s32) X(selp32) X(popc32) X(clz32) \
  X(brev32) X(prmt) X(shf_l) X(shf_r) X(lop3) \
  X(add16) X(sub16) X(mul16) X(and16) X(or16) X(xor16) X(not16) X(shl16) X(shr_u16) X(shr_s16) \
  X(add64) X(sub64) X(mul64) X(mad64) X(mulhi_s64) X(mulhi_u64) X(div_s64) X(div_u64) X(rem_s64) X(rem_u64) X(min_s64) \
  X(max_s64) X(min_u64) X(max_u64) X(and64) X(or64) X(xor64) X(not64) X(shl64) X(shr_s64) X(shr_u64) X(neg64) X(abs64) \
  X(selp64) \
  X(andp) X(orp) X(xorp) X(notp) X(selpp) \
  X(eq16) X(ne16) X(lt_s16) X(le_s16) X(gt_s16) X(ge_s16) X(lt_u16) X(le_u16) X(gt_u16) X(ge_u16) \
  X(eq32) X(ne32) X(lt_s32) X(le_s32) X(gt_s32) X(ge_s32) X(lt_u32) X(le_u32) X(gt_u32) X(ge_u32) \
  X(eq64) X(ne64) X(lt_s64) X(le_s64) X(gt_s64) X(ge_s64) X(lt_u64) X(le_u64) X(gt_u64) X(ge_u64) \
  X(eq_f) X(ne_f) X(lt_f) X(le_f) X(gt_f) X(ge_f) X(equ_f) X(neu_f) X(ltu_f) X(leu_f) X(gtu_f) X(geu_f) X(num_f) X(nan_f) \
  X(cvt_u64_u32) X(cvt_s64_s32) X(sext64) X(zext64) X(cvt_u32_u64) X(cvt_u16) X(cvt_s16_s8) X(cvt_s32_s8) X(cvt_s32_s16) X(cvt_u8) \
  X(cvt_f_s32) X(cvt_f_u32) X(cvt_f_s64) X(cvt_f_u64) X(cvt_s32_f) X(cvt_u32_f) X(cvt_s64_f) X(cvt_u64_f) \
  X(cvt_f_bf16) X(cvt_bf16_f) X(cvt_bf16x2) X(floor_f) X(ceil_f) X(trunc_f) X(rint_f) \
  X(add_f) X(sub_f) X(mul_f) X(fma_f) X(div_f) X(div_approx) X(sqrt_f) X(sqrt_approx) X(rsqrt) X(rcp_f) X(rcp_approx) \
  X(ex2) X(lg2) X(sin_approx) X(cos_approx) X(tanh_approx) X(min_f) X(max_f) X(min_nan_f) X(max_nan_f) X(abs_f) X(neg_f) X(copysign_f) \
  X(ld_global) X(st_global) X(ld_shared) X(st_shared) X(atom) X(ldmatrix) X(stmatrix) X(membar) \
  X(shfl_bfly) X(shfl_up) X(shfl_down) X(shfl_idx) X(redux_min_s32) X(redux_max_s32) X(redux_add_s32) X(redux_min_u32) \
  X(redux_max_u32) X(redux_and) X(redux_or) X(redux_xor) X(vote_ballot) X(vote_any) X(vote_all) X(bar_warp) X(bar) X(bra) X(ret) X(trap)
// clang-format on
#define X(name) OP_##name,
enum Op { OPS(X) OP_COUNT };
#undef X

typedef struct {
  i32 op, pred, negated, ftz;   // pred: predicate register or -1
  i32 width, count, cls, sign;  // of a memory access: bytes, elements; registers of 64 bits (cls 8); sign extension
  i32 d[4], s[4];               // registers; -1 for none
  i32 target, kind;             // of a branch; of an atomic
  i64 offset;                   // of an address; number of a parameter; table of lop3
} Ins;

typedef struct {
  u8 *host;     // where the first byte lies
  u64 bytes;    // of the argument's tensor
  u64 space;    // virtual address of the first byte
  void *shadow; // Shadow of the argument's storage, for its first byte, or NULL
  u32 *sectors; // last block + 1 that touched a sector of 32 bytes, or NULL
  u8 *touched;  // per sector: 1 read, 2 written
  i32 granule;  // bytes a shadow stands for
  i32 poisoned; // may hold the pattern of memory that nobody wrote
} Area;

typedef struct {
  u32 wblock, wthread, wepoch, wpc;
  u32 rblock, rthread, repoch, rpc; // rblock ~0: several blocks; rthread ~0: several warps of one block
  u32 ablock, athread, apc, pad;
} Shadow;

typedef struct {
  u32 wthread, wepoch, wsync, wpc;
  u32 repoch, rwarps, rlanes, rsync, rpc;
} Local;

typedef struct {
  i32 type, pc, otherpc;
  u32 block, thread, otherblock, otherthread;
  u32 pad;
  u64 count, address, value, other;
} Event;

enum {
  E_BOUNDS = 1, E_MISALIGNED, E_UNINITIALISED, E_SHARED_BOUNDS, E_SHARED_UNINITIALISED, E_SHARED_RACE, E_SHARED_WARP_RACE,
  E_RACE_WW, E_RACE_RW, E_SAME_VALUE, E_ATOMIC_WRITE, E_ATOMIC_READ, E_WARP_RACE, E_LANES_WW, E_LANES_SAME, E_DIV_ZERO,
  E_SHFL_INACTIVE, E_SYNC_DEADLOCK, E_RUNAWAY, E_NO_AREA, E_CONVERSION, E_TRAP, E_BARRIER_EXITED, E_SHARED_LANES,
  E_SHARED_SAME
};

enum { MAX_EVENTS = 512 };

typedef struct {
  u64 warp_instructions, thread_instructions, branches, divergent_branches, barriers;
  u64 load_requests, load_lanes, load_bytes, load_sectors, load_ideal, load_lines;
  u64 store_requests, store_lanes, store_bytes, store_sectors, store_ideal, store_lines;
  u64 block_sectors; // sectors that blocks touched, each once a block
  u64 shared_requests, shared_wavefronts, shared_ideal;
  u64 atomic_requests, atomic_lanes, atomic_addresses, atomic_depth, atomic_empty; // depth: most lanes of one address
  u64 fp32, special, integer, shuffles, conversions, moves, blocks, empty_loads, uniform_loads;
} Counters;

typedef struct {
  const Ins *code;
  i32 instructions, r32, r64, preds; // registers
  const u32 *init32;                 // [r32] constants; those from `fixed32` on are constants
  const u64 *init64;
  i32 fixed32, fixed64;
  i32 tid[3], ctaid[3], nctaid[3], ntid[3], laneid; // special registers, -1 where unused
  i32 warps;
  u32 shared, shared_base;
  const u64 *params;
  Area *areas;
  i32 area_count;
  const u32 *order; // blocks to run
  u64 blocks;
  u32 grid[3];
  i32 resident;  // blocks at once
  i32 random;    // schedule: 0 one warp after another, 1 random
  i32 divergent; // also which of the groups of a diverged warp goes on is random
  i32 races, counting, approximate; // approximate: results of approximations are off by one ulp
  u64 seed, limit;
  Counters *counters;
  Event *events;
  i32 event_count;
  u64 *issued; // [instructions] times issued, or NULL
  u64 *sectors_by_pc;
} Launch;

typedef struct {
  u32 *r32, *p;
  u64 *r64;
  u32 alive, active, blocked;
  i32 pc, next; // next: the lowest program counter of lanes that wait, or a large number
  i32 lanepc[32];
  i32 state; // 0 ready, 1 at the barrier, 2 done
  u32 sync;
} Warp;

typedef struct {
  Warp *warps;
  u8 *shared;
  Local *local;
  u32 id, epoch, running, waiting;
} Block;

static inline u64 next_random(u64 *state) {
  u64 x = *state;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return *state = x;
}

static Event *report(Launch *L, int type, int pc, int otherpc, u32 block, u32 thread, u64 address) {
  for (int i = 0; i < L->event_count; i++) {
    Event *e = &L->events[i];
    if (e->type == type && e->pc == pc && e->otherpc == otherpc) {
      e->count++;
      return NULL;
    }
  }
  if (L->event_count == MAX_EVENTS) return NULL;
  Event *e = &L->events[L->event_count++];
  memset(e, 0, sizeof *e);
  e->type = type, e->pc = pc, e->otherpc = otherpc, e->block = block, e->thread = thread, e->address = address, e->count = 1;
  return e;
}

#define POISON 0x7FBADBADu
#define LANES for (int l = 0; l < 32; l++)
#define IVDEP _Pragma("GCC ivdep")
#define ON (m >> l & 1)
