// SPDX-License-Identifier: Apache-2.0
// Executes the instructions of one warp.
#pragma once
#include "access.h"

static void regroup(Launch *L, Warp *w, u64 *rng) {
  u32 candidates = w->alive & ~w->blocked;
  if (!candidates) {
    w->active = 0;
    return;
  }
  i32 pick = 0x7FFFFFFF;
  if (L->divergent) {
    int n = next_random(rng) % __builtin_popcount(candidates);
    LANES if (candidates >> l & 1 && n-- == 0) pick = w->lanepc[l];
  } else {
    LANES if (candidates >> l & 1 && w->lanepc[l] < pick) pick = w->lanepc[l];
  }
  u32 active = 0;
  i32 next = 0x7FFFFFFF;
  LANES if (w->alive >> l & 1) {
    if (w->lanepc[l] == pick) active |= 1u << l;
    else if (w->lanepc[l] < next) next = w->lanepc[l];
  }
  if (L->divergent && next != 0x7FFFFFFF) next = -1; // look again after every instruction that could join groups
  w->pc = pick, w->active = active, w->next = next;
  w->blocked &= ~active;
}

static void park(Warp *w) { LANES if (w->active >> l & 1) w->lanepc[l] = w->pc; }

#define R32(n) (w->r32 + (u64)(n) * 32)
#define R64(n) (w->r64 + (u64)(n) * 32)
#define WRITE(T, D, EXPR) { T *restrict_d = D; if (m == ~0u) { IVDEP LANES restrict_d[l] = (EXPR); } else { IVDEP LANES restrict_d[l] = ON ? (EXPR) : restrict_d[l]; } } break
#define ABC32 const u32 *a = R32(i->s[0]), *b = i->s[1] >= 0 ? R32(i->s[1]) : a, *c = i->s[2] >= 0 ? R32(i->s[2]) : a; (void)a, (void)b, (void)c
#define ABC64 const u64 *a = R64(i->s[0]), *b = i->s[1] >= 0 ? R64(i->s[1]) : a, *c = i->s[2] >= 0 ? R64(i->s[2]) : a; (void)a, (void)b, (void)c
#define C32(name, EXPR) case OP_##name: { ABC32; WRITE(u32, R32(i->d[0]), (u32)(EXPR)); }
#define C64(name, EXPR) case OP_##name: { ABC64; WRITE(u64, R64(i->d[0]), (u64)(EXPR)); }
#define C6432(name, EXPR) case OP_##name: { ABC32; WRITE(u64, R64(i->d[0]), (u64)(EXPR)); }
#define C3264(name, EXPR) case OP_##name: { ABC64; WRITE(u32, R32(i->d[0]), (u32)(EXPR)); }
#define CP(name, EXPR) case OP_##name: { ABC32; u32 bits = 0; LANES bits |= (u32)((EXPR) ? 1 : 0) << l; w->p[i->d[0]] = (w->p[i->d[0]] & ~m) | (bits & m); } break;
#define CP64(name, EXPR) case OP_##name: { ABC64; u32 bits = 0; LANES bits |= (u32)((EXPR) ? 1 : 0) << l; w->p[i->d[0]] = (w->p[i->d[0]] & ~m) | (bits & m); } break;
#define PRED(EXPR) { u32 v = (EXPR); w->p[i->d[0]] = (w->p[i->d[0]] & ~m) | (v & m); } break
#define FA fin(a[l], z)
#define FB fin(b[l], z)
#define FC fin(c[l], z)
#define CF(name, EXPR) case OP_##name: { ABC32; int z = i->ftz; WRITE(u32, R32(i->d[0]), fout(EXPR, z)); }
#define CA(name, EXPR) case OP_##name: { ABC32; int z = i->ftz; u32 *d = R32(i->d[0]); LANES if (ON) d[l] = nudge(L, EXPR, a[l] * 31 + b[l], z); } break;
#define SHFL(name, SOURCE, VALID) case OP_##name: { const u32 *a = R32(i->s[0]), *b = R32(i->s[1]), *c = R32(i->s[2]); u32 t[32], ok = 0; \
    LANES { int seg = c[l] >> 8 & 31, high = (l & seg) | (c[l] & ~seg & 31), low = l & seg; (void)high; (void)low; int j = SOURCE; int valid = VALID; if (!valid) j = l; j &= 31; \
      if (valid) ok |= 1u << l;\
      if (ON && !(w->active >> j & 1)) report(L, E_SHFL_INACTIVE, pc, -1, B->id, warp * 32 + l, j); t[l] = a[j]; } \
    u32 *d = R32(i->d[0]); LANES if (ON) d[l] = t[l]; if (i->d[1] >= 0) w->p[i->d[1]] = (w->p[i->d[1]] & ~m) | (ok & m); w->sync++; } break;
#define REDUX(name, T, COMBINE) case OP_##name: { const u32 *a = R32(i->s[0]); T x = 0; int any = 0; LANES if (ON) { T y = (T)a[l]; x = any ? (COMBINE) : y; any = 1; } u32 *d = R32(i->d[0]); LANES if (ON) d[l] = (u32)x; w->sync++; } break;

static int is_sync(int op) { return (op >= OP_shfl_bfly && op <= OP_bar) || op == OP_ldmatrix || op == OP_stmatrix; }

// Runs a warp for at most `quantum` instructions.
static u64 run_warp(Launch *L, Block *B, int warp, u64 quantum, u64 *rng) {
  Warp *w = &B->warps[warp];
  u64 done = 0;
  Counters *cn = L->counters;
  while (done < quantum) {
    if (!w->active) {
      regroup(L, w, rng);
      if (!w->active) {
        if (!w->alive) { w->state = 2; return done; }
        LANES if (w->alive >> l & 1) { report(L, E_SYNC_DEADLOCK, w->lanepc[l], -1, B->id, warp * 32 + l, 0); }
        w->alive = 0, w->state = 2;
        return done + 1;
      }
    }
    int pc = w->pc;
    const Ins *i = &L->code[pc];
    if (is_sync(i->op)) {
      u32 members = w->alive;
      if (i->kind >= 0 && i->op != OP_bar) members &= R32(i->kind)[__builtin_ctz(w->active)];
      if (members & ~w->active) { // waits for the other lanes
        park(w);
        w->blocked |= w->active, w->active = 0;
        continue;
      }
    }
    u32 m = w->active;
    if (i->pred >= 0) m &= i->negated ? ~w->p[i->pred] : w->p[i->pred];
    done++;
    if (L->counting) {
      cn->warp_instructions++;
      cn->thread_instructions += __builtin_popcount(m);
      if (L->issued) L->issued[pc]++;
      int op = i->op;
      if (op >= OP_add_f && op <= OP_fma_f) cn->fp32++;
      else if (op >= OP_div_f && op <= OP_tanh_approx) cn->special++;
      else if (op >= OP_add32 && op <= OP_selp64) cn->integer++;
      else if (op >= OP_cvt_u64_u32 && op <= OP_rint_f) cn->conversions++;
      else if (op >= OP_mov32 && op <= OP_pack64) cn->moves++;
      else if (op >= OP_shfl_bfly && op <= OP_bar_warp) cn->shuffles++;
    }
    if (i->op == OP_bra) {
      if (L->counting) cn->branches++;
      if (m == w->active) w->pc = i->target;
      else if (m == 0) w->pc++;
      else {
        if (L->counting) cn->divergent_branches++;
        LANES if (w->active >> l & 1) w->lanepc[l] = m >> l & 1 ? i->target : pc + 1;
        w->active = 0;
        continue;
      }
      if (w->pc >= w->next) { park(w); w->active = 0; }
      continue;
    }
    if (i->op == OP_ret) {
      if (m) {
        park(w);
        w->alive &= ~m;
        LANES if (w->active >> l & 1 && !(m >> l & 1)) w->lanepc[l] = pc + 1;
        w->active = 0;
        if (!w->alive) { w->state = 2; return done; }
        continue;
      }
      w->pc++;
      if (w->pc >= w->next) { park(w); w->active = 0; }
      continue;
    }
    if (i->op == OP_bar) {
      if (L->counting) cn->barriers++;
      w->pc++;
      w->state = 1;
      w->sync++;
      return done;
    }
    if (m || i->op == OP_ld_global || i->op == OP_atom || i->op == OP_st_global) switch (i->op) {
    case OP_nop: case OP_membar: break;
    C32(mov32, a[l]) C64(mov64, a[l])
    case OP_movp: PRED(w->p[i->s[0]]);
    case OP_unpack32: { const u32 *a = R32(i->s[0]); u32 t[32]; LANES t[l] = a[l];
        if (i->d[0] >= 0) { u32 *d = R32(i->d[0]); LANES if (ON) d[l] = t[l] & 0xFFFF; }
        if (i->d[1] >= 0) { u32 *d = R32(i->d[1]); LANES if (ON) d[l] = t[l] >> 16; } } break;
    case OP_unpack64: { const u64 *a = R64(i->s[0]);
        if (i->d[0] >= 0) { u32 *d = R32(i->d[0]); LANES if (ON) d[l] = (u32)a[l]; }
        if (i->d[1] >= 0) { u32 *d = R32(i->d[1]); LANES if (ON) d[l] = (u32)(a[l] >> 32); } } break;
    C32(pack32, (a[l] & 0xFFFF) | b[l] << 16)
    C6432(pack64, (u64)a[l] | (u64)b[l] << 32)
    case OP_param32: { u32 v = (u32)L->params[i->offset], *d = R32(i->d[0]); LANES if (ON) d[l] = v; } break;
    case OP_param64: { u64 v = L->params[i->offset], *d = R64(i->d[0]); LANES if (ON) d[l] = v; } break;
    case OP_param32s64: { u64 v = i->sign ? (u64)(i64)(i32)L->params[i->offset] : (u64)(u32)L->params[i->offset], *d = R64(i->d[0]); LANES if (ON) d[l] = v; } break;
    C32(add32, a[l] + b[l]) C32(sub32, a[l] - b[l]) C32(mul32, a[l] * b[l]) C32(mad32, a[l] * b[l] + c[l])
    C32(mulhi_s32, (u32)((i64)(i32)a[l] * (i32)b[l] >> 32)) C32(mulhi_u32, (u64)a[l] * b[l] >> 32)
    C6432(mulw_s32, (i64)(i32)a[l] * (i32)b[l]) C6432(mulw_u32, (u64)a[l] * b[l])
    case OP_madw_s32: { ABC32; const u64 *e = R64(i->s[2]); u64 *d = R64(i->d[0]); LANES if (ON) d[l] = (u64)((i64)(i32)a[l] * (i32)b[l]) + e[l]; } break;
    case OP_madw_u32: { ABC32; const u64 *e = R64(i->s[2]); u64 *d = R64(i->d[0]); LANES if (ON) d[l] = (u64)a[l] * b[l] + e[l]; } break;
#define DIV(name, T, F, REG, C, EXPR) case OP_##name: { const F *a = REG(i->s[0]), *b = REG(i->s[1]); F *d = REG(i->d[0]); LANES if (ON) { if (!b[l]) { report(L, E_DIV_ZERO, pc, -1, B->id, warp * 32 + l, 0); d[l] = (F)~(F)0; } else if ((T)-1 < 0 && b[l] == (F)-1) d[l] = C; else d[l] = (F)(EXPR); } } break;
    DIV(div_s32, i32, u32, R32, 0 - a[l], (i32)a[l] / (i32)b[l]) DIV(div_u32, u32, u32, R32, a[l] / b[l], a[l] / b[l])
    DIV(rem_s32, i32, u32, R32, 0, (i32)a[l] % (i32)b[l]) DIV(rem_u32, u32, u32, R32, a[l] % b[l], a[l] % b[l])
    DIV(div_s64, i64, u64, R64, 0 - a[l], (i64)a[l] / (i64)b[l]) DIV(div_u64, u64, u64, R64, a[l] / b[l], a[l] / b[l])
    DIV(rem_s64, i64, u64, R64, 0, (i64)a[l] % (i64)b[l]) DIV(rem_u64, u64, u64, R64, a[l] % b[l], a[l] % b[l])
    C32(min_s32, (i32)a[l] < (i32)b[l] ? a[l] : b[l]) C32(max_s32, (i32)a[l] > (i32)b[l] ? a[l] : b[l])
    C32(min_u32, a[l] < b[l] ? a[l] : b[l]) C32(max_u32, a[l] > b[l] ? a[l] : b[l])
    C32(and32, a[l] & b[l]) C32(or32, a[l] | b[l]) C32(xor32, a[l] ^ b[l]) C32(not32, ~a[l])
    C32(shl32, b[l] > 31 ? 0 : a[l] << b[l]) C32(shr_u32, b[l] > 31 ? 0 : a[l] >> b[l]) C32(shr_s32, (i32)a[l] >> (b[l] > 31 ? 31 : b[l]))
    C32(neg32, 0 - a[l]) C32(abs32, (i32)a[l] < 0 ? 0 - a[l] : a[l])
    C32(popc32, __builtin_popcount(a[l])) C32(clz32, a[l] ? __builtin_clz(a[l]) : 32)
    C32(bfe_s32, bfe_signed(a[l], b[l] & 255, c[l] & 255))
    C32(brev32, reversed(a[l]))
    C32(bfe_u32, (b[l] & 255) > 31 ? 0 : (a[l] >> (b[l] & 255)) & ((c[l] & 255) > 31 ? ~0u : (1u << (c[l] & 255)) - 1))
    case OP_selp32: { const u32 *a = R32(i->s[0]), *b = R32(i->s[1]); u32 p = w->p[i->s[2]]; WRITE(u32, R32(i->d[0]), p >> l & 1 ? a[l] : b[l]); }
    case OP_selp64: { const u64 *a = R64(i->s[0]), *b = R64(i->s[1]); u32 p = w->p[i->s[2]]; WRITE(u64, R64(i->d[0]), p >> l & 1 ? a[l] : b[l]); }
    case OP_prmt: { ABC32; u32 *d = R32(i->d[0]); LANES if (ON) { u64 x = (u64)a[l] | (u64)b[l] << 32; u32 r = 0; for (int k = 0; k < 4; k++) { u32 s = c[l] >> 4 * k & 15; u32 y = x >> 8 * (s & 7) & 255; if (s & 8) y = y & 128 ? 255 : 0; r |= y << 8 * k; } d[l] = r; } } break;
    C32(shf_l, (u32)((((u64)b[l] << 32 | a[l]) << (c[l] & 31)) >> 32)) C32(shf_r, (u32)(((u64)b[l] << 32 | a[l]) >> (c[l] & 31)))
    case OP_lop3: { ABC32; u32 *d = R32(i->d[0]); LANES if (ON) { u32 r = 0; for (int k = 0; k < 8; k++) if (i->offset >> k & 1) r |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]); d[l] = r; } } break;
    C32(add16, (a[l] + b[l]) & 0xFFFF) C32(sub16, (a[l] - b[l]) & 0xFFFF) C32(mul16, (a[l] * b[l]) & 0xFFFF)
    C32(and16, a[l] & b[l] & 0xFFFF) C32(or16, (a[l] | b[l]) & 0xFFFF) C32(xor16, (a[l] ^ b[l]) & 0xFFFF) C32(not16, ~a[l] & 0xFFFF)
    C32(shl16, b[l] > 15 ? 0 : a[l] << b[l] & 0xFFFF) C32(shr_u16, b[l] > 15 ? 0 : (a[l] & 0xFFFF) >> b[l]) C32(shr_s16, (u16)((int16_t)a[l] >> (b[l] > 15 ? 15 : b[l])))
    C64(add64, a[l] + b[l]) C64(sub64, a[l] - b[l]) C64(mul64, a[l] * b[l]) C64(mad64, a[l] * b[l] + c[l])
    C64(mulhi_s64, (u64)((__int128)(i64)a[l] * (i64)b[l] >> 64)) C64(mulhi_u64, (u64)((unsigned __int128)a[l] * b[l] >> 64))
    C64(min_s64, (i64)a[l] < (i64)b[l] ? a[l] : b[l]) C64(max_s64, (i64)a[l] > (i64)b[l] ? a[l] : b[l])
    C64(min_u64, a[l] < b[l] ? a[l] : b[l]) C64(max_u64, a[l] > b[l] ? a[l] : b[l])
    C64(and64, a[l] & b[l]) C64(or64, a[l] | b[l]) C64(xor64, a[l] ^ b[l]) C64(not64, ~a[l]) C64(neg64, 0 - a[l]) C64(abs64, (i64)a[l] < 0 ? 0 - a[l] : a[l])
    case OP_shl64: { const u64 *a = R64(i->s[0]); const u32 *b = R32(i->s[1]); WRITE(u64, R64(i->d[0]), b[l] > 63 ? 0 : a[l] << b[l]); }
    case OP_shr_u64: { const u64 *a = R64(i->s[0]); const u32 *b = R32(i->s[1]); WRITE(u64, R64(i->d[0]), b[l] > 63 ? 0 : a[l] >> b[l]); }
    case OP_shr_s64: { const u64 *a = R64(i->s[0]); const u32 *b = R32(i->s[1]); WRITE(u64, R64(i->d[0]), (u64)((i64)a[l] >> (b[l] > 63 ? 63 : b[l]))); }
    case OP_andp: PRED(w->p[i->s[0]] & w->p[i->s[1]]);
    case OP_orp: PRED(w->p[i->s[0]] | w->p[i->s[1]]);
    case OP_xorp: PRED(w->p[i->s[0]] ^ w->p[i->s[1]]);
    case OP_notp: PRED(~w->p[i->s[0]]);
    CP(eq16, (u16)a[l] == (u16)b[l]) CP(ne16, (u16)a[l] != (u16)b[l])
    CP(lt_s16, (int16_t)a[l] < (int16_t)b[l]) CP(le_s16, (int16_t)a[l] <= (int16_t)b[l]) CP(gt_s16, (int16_t)a[l] > (int16_t)b[l]) CP(ge_s16, (int16_t)a[l] >= (int16_t)b[l])
    CP(lt_u16, (u16)a[l] < (u16)b[l]) CP(le_u16, (u16)a[l] <= (u16)b[l]) CP(gt_u16, (u16)a[l] > (u16)b[l]) CP(ge_u16, (u16)a[l] >= (u16)b[l])
    CP(eq32, a[l] == b[l]) CP(ne32, a[l] != b[l]) CP(lt_s32, (i32)a[l] < (i32)b[l]) CP(le_s32, (i32)a[l] <= (i32)b[l])
    CP(gt_s32, (i32)a[l] > (i32)b[l]) CP(ge_s32, (i32)a[l] >= (i32)b[l]) CP(lt_u32, a[l] < b[l]) CP(le_u32, a[l] <= b[l])
    CP(gt_u32, a[l] > b[l]) CP(ge_u32, a[l] >= b[l])
    CP64(eq64, a[l] == b[l]) CP64(ne64, a[l] != b[l]) CP64(lt_s64, (i64)a[l] < (i64)b[l]) CP64(le_s64, (i64)a[l] <= (i64)b[l])
    CP64(gt_s64, (i64)a[l] > (i64)b[l]) CP64(ge_s64, (i64)a[l] >= (i64)b[l]) CP64(lt_u64, a[l] < b[l]) CP64(le_u64, a[l] <= b[l])
    CP64(gt_u64, a[l] > b[l]) CP64(ge_u64, a[l] >= b[l])
#define CPF(name, EXPR) case OP_##name: { ABC32; int z = i->ftz; u32 bits = 0; LANES { float x = FA, y = FB; bits |= (u32)((EXPR) ? 1 : 0) << l; } w->p[i->d[0]] = (w->p[i->d[0]] & ~m) | (bits & m); } break;
    CPF(eq_f, x == y) CPF(ne_f, x == x && y == y && x != y) CPF(lt_f, x < y) CPF(le_f, x <= y) CPF(gt_f, x > y) CPF(ge_f, x >= y)
    CPF(equ_f, x != x || y != y || x == y) CPF(neu_f, x != y) CPF(ltu_f, !(x >= y)) CPF(leu_f, !(x > y)) CPF(gtu_f, !(x <= y)) CPF(geu_f, !(x < y))
    CPF(num_f, x == x && y == y) CPF(nan_f, x != x || y != y)
    C64(sext64, (i64)(i32)a[l]) C64(zext64, (u32)a[l]) C6432(cvt_u64_u32, a[l]) C6432(cvt_s64_s32, (i64)(i32)a[l]) C3264(cvt_u32_u64, a[l]) C32(cvt_u16, a[l] & 0xFFFF) C32(cvt_u8, a[l] & 0xFF)
    C32(cvt_s16_s8, (u16)(int16_t)(int8_t)a[l]) C32(cvt_s32_s8, (i32)(int8_t)a[l]) C32(cvt_s32_s16, (i32)(int16_t)a[l])
    C32(cvt_f_s32, asu((float)(i32)a[l])) C32(cvt_f_u32, asu((float)a[l])) C3264(cvt_f_s64, asu((float)(i64)a[l])) C3264(cvt_f_u64, asu((float)a[l]))
#define CVTI(name, T, D, REG, NAN, LOW, HIGH, MIN, MAX) case OP_##name: { const u32 *a = R32(i->s[0]); D *d = REG(i->d[0]); int z = i->ftz; LANES if (ON) { float x = FA; if (x != x) { d[l] = (D)NAN; report(L, E_CONVERSION, pc, 0, B->id, warp * 32 + l, a[l]); } else if (x < LOW) { d[l] = (D)MIN; report(L, E_CONVERSION, pc, 1, B->id, warp * 32 + l, a[l]); } else if (x >= HIGH) { d[l] = (D)MAX; report(L, E_CONVERSION, pc, 1, B->id, warp * 32 + l, a[l]); } else d[l] = (D)(T)x; } } break;
    CVTI(cvt_s32_f, i32, u32, R32, 0, -2147483648.0f, 2147483648.0f, 0x80000000u, 0x7FFFFFFFu)
    CVTI(cvt_u32_f, u32, u32, R32, 0, 0.0f, 4294967296.0f, 0, ~0u)
    CVTI(cvt_s64_f, i64, u64, R64, 0x8000000000000000ull, -9223372036854775808.0f, 9223372036854775808.0f, 0x8000000000000000ull, 0x7FFFFFFFFFFFFFFFull)
    CVTI(cvt_u64_f, u64, u64, R64, 0x8000000000000000ull, 0.0f, 18446744073709551616.0f, 0, ~0ull)
    C32(cvt_f_bf16, a[l] << 16) C32(cvt_bf16_f, bf16(a[l])) C32(cvt_bf16x2, (u32)bf16(a[l]) << 16 | bf16(b[l]))
    CF(floor_f, floorf(FA)) CF(ceil_f, ceilf(FA)) CF(trunc_f, truncf(FA)) CF(rint_f, rintf(FA))
    CF(add_f, FA + FB) CF(sub_f, FA - FB) CF(mul_f, FA * FB) CF(fma_f, __builtin_fmaf(FA, FB, FC))
    CF(div_f, FA / FB) CF(sqrt_f, sqrtf(FA)) CF(rcp_f, 1.0f / FA)
    CA(div_approx, FA / FB) CA(sqrt_approx, sqrtf(FA)) CA(rsqrt, (float)(1.0 / sqrt((double)FA))) CA(rcp_approx, 1.0f / FA)
    CA(ex2, exp2f(FA)) CA(lg2, log2f(FA)) CA(sin_approx, sinf(FA)) CA(cos_approx, cosf(FA)) CA(tanh_approx, tanhf(FA))
    C32(min_f, fmin_ptx(a[l], b[l], 0)) C32(max_f, fmax_ptx(a[l], b[l], 0)) C32(min_nan_f, fmin_ptx(a[l], b[l], 1)) C32(max_nan_f, fmax_ptx(a[l], b[l], 1))
    C32(abs_f, a[l] & 0x7FFFFFFFu) C32(neg_f, a[l] ^ 0x80000000u) C32(copysign_f, (b[l] & 0x7FFFFFFFu) | (a[l] & 0x80000000u))
    case OP_ld_global: access_global(L, B, w, i, pc, m, warp, 0, rng); break;
    case OP_st_global: access_global(L, B, w, i, pc, m, warp, 1, rng); break;
    case OP_ld_shared: access_shared(L, B, w, i, pc, m, warp, 0, rng); break;
    case OP_st_shared: access_shared(L, B, w, i, pc, m, warp, 1, rng); break;
    case OP_atom: atomic(L, B, w, i, pc, m, warp, rng); break;
    case OP_ldmatrix:
    case OP_stmatrix: {
      int store = i->op == OP_stmatrix;
      u32 address[32], t[4][32];
      const u32 *a = R32(i->s[0]);
      for (int k = 0; k < i->count; k++) {
        if (store) { const u32 *v = R32(i->d[k]); LANES t[k][l] = v[l]; }
        for (int r = 0; r < 8; r++) {
          u32 at = a[k * 8 + r] + (u32)i->offset - L->shared_base;
          address[r] = at;
          if (at >= L->shared || at + 16 > L->shared) { Event *e = report(L, E_SHARED_BOUNDS, pc, store, B->id, warp * 32 + k * 8 + r, at); if (e) e->value = at, e->other = L->shared; at = 0; }
          if (at % 16) report(L, E_MISALIGNED, pc, store, B->id, warp * 32 + k * 8 + r, at);
          for (int j = 0; j < 4; j++) {
            u8 *where = B->shared + at + 4 * j;
            int l = r * 4 + j;
            Local *seen = &B->local[at + 4 * j];
            if (L->races && !(store && seen->wthread && seen->wpc == (u32)pc && seen->wepoch == B->epoch && (seen->wthread - 1) / 32 == (u32)warp && !memcmp(where, &t[k][l], 4)))
              check_shared(L, B, w, pc, warp * 32 + l, at + 4 * j, 4, store, store && !memcmp(where, &t[k][l], 4));
            if (store) memcpy(where, &t[k][l], 4);
            else memcpy(&t[k][l], where, 4);
          }
        }
        if (L->counting) { for (int r = 8; r < 32; r++) address[r] = 0; count_shared(L, address, 0xFF, 16); }
      }
      if (!store && i->sign) // transposed
        for (int k = 0; k < i->count; k++) {
          u16 m8[8][8];
          u32 *d = R32(i->d[k]);
          memcpy(m8, t[k], 128);
          LANES d[l] = m8[2 * (l % 4)][l / 4] | (u32)m8[2 * (l % 4) + 1][l / 4] << 16;
        }
      else if (!store) for (int k = 0; k < i->count; k++) { u32 *d = R32(i->d[k]); LANES d[l] = t[k][l]; }
      w->sync++;
    } break;
    SHFL(shfl_bfly, l ^ (int)b[l], j <= high) SHFL(shfl_up, l - (int)b[l], j >= high) SHFL(shfl_down, l + (int)b[l], j <= high)
    SHFL(shfl_idx, low | ((int)b[l] & ~seg & 31), j <= high)
    REDUX(redux_min_s32, i32, y < x ? y : x) REDUX(redux_max_s32, i32, y > x ? y : x) REDUX(redux_add_s32, u32, x + y) REDUX(redux_min_u32, u32, y < x ? y : x)
    REDUX(redux_max_u32, u32, y > x ? y : x) REDUX(redux_and, u32, x & y) REDUX(redux_or, u32, x | y) REDUX(redux_xor, u32, x ^ y)
    case OP_vote_ballot: { u32 v = w->p[i->s[0]] & m, *d = R32(i->d[0]); LANES if (ON) d[l] = v; w->sync++; } break;
    case OP_vote_any: PRED(w->p[i->s[0]] & m ? ~0u : 0);
    case OP_vote_all: PRED((w->p[i->s[0]] & m) == m ? ~0u : 0);
    case OP_bar_warp: w->sync++; break;
    case OP_trap: if (m) report(L, E_TRAP, pc, -1, B->id, warp * 32 + __builtin_ctz(m), 0); break;
    default: report(L, E_TRAP, pc, -2, B->id, warp * 32, i->op); break;
    }
    w->pc++;
    if (w->pc >= w->next) {
      park(w);
      w->active = 0;
    }
  }
  return done;
}
