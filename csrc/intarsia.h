// SPDX-License-Identifier: Apache-2.0
// Every kernel entry point of intarsia: raw pointers, shapes and a stream or a thread count. No Python, no
// torch: a C++ program includes this file and links intarsia::kernels (docs/cpp.md). A mean of patches:
//
//   const auto plan = intarsia::make_plan(offsets, regions, 2, canvas_size, patch_size);
//   const intarsia::Status status = intarsia::cpu::scatter_average(canvas, DType::f32, patches, DType::f32,
//                                                                  batch, channels, *plan, weight, true, 4);
//
// Shapes: B batch, R regions, C channels, *S canvas axes, *s patch axes (1 to 3 of them); tensors are dense
// and row-major unless a stride says otherwise. Plans store axes right-aligned in three: a leading axis that
// is not there has size 1. An axis of length 0 is legal; such a call does nothing and returns ok.
// Memory: every pointer is borrowed until the call returns, on a GPU until the stream has passed the call.
// Addresses need the alignment of one element, no more. `out` overlaps no input unless its comment says so.
// A CUDA function allocates nothing; a CPU function frees what scratch it takes before it returns.
// Trust: sizes, dtypes and pointers are believed. make_plan checks the geometry; nothing else is.
// Errors: a Status, and `out` is unspecified unless it says ok. Only make_plan throws.
// Threads: all functions may run at once on any threads that write different memory, and share plans.
// `threads` bounds the OpenMP team of one call; no result depends on it. A forked child runs alone.
// Binary interface: none is promised between versions; header and library come from the same sources.
#pragma once

#include <cstdint>
#include <memory>

namespace intarsia {

enum class DType : int32_t { f16, bf16, f32, f64 };  // half types as the 16 bits that the hardware reads
constexpr int kMaxDims = 3;

// Rows of the canvas under one list of regions, cut into pieces that fit the first-level cache.
// Only the CPU kernels walk them.
struct Band {
  int64_t list;       // which list of regions is over it; a region may end before its last row
  int64_t x0;         // place along axis 0
  int64_t x1, rows;   // first place and number of places along axis 1
  int64_t x2, width;  // first place and number of places along axis 2
  int64_t cost;       // work in this band and all before it, to cut the list into equal shares
  bool single;        // every element is covered exactly once
};

// Where the regions lie and which of them cover each place of the canvas. Borrowed memory.
struct PlanView {
  int ndim = 0;
  int64_t regions = 0;                   // R
  int64_t canvas[kMaxDims] = {1, 1, 1};  // S
  int64_t patch[kMaxDims] = {1, 1, 1};   // s
  bool wrap[kMaxDims] = {false, false, false};
  const int64_t* offsets = nullptr;  // [R, ndim], wrapped axes reduced to [0, S)
  const int64_t* order = nullptr;    // [R] regions by offset, ties by index: the order of every sum

  // Cells: between neighbouring region edges the covering list is constant.
  int64_t cells[kMaxDims] = {1, 1, 1};                           // K
  const int64_t* edges[kMaxDims] = {nullptr, nullptr, nullptr};  // [K + 1]; null for a leading axis
  const int32_t* axis_cell[kMaxDims] = {nullptr, nullptr,
                                        nullptr};  // [S] place -> cell; null for a leading axis
  const int64_t* cell_start = nullptr;             // [prod K + 1] into cell_region
  const int32_t* cell_region = nullptr;            // regions of each cell, in order

  // The CPU kernels' own form of the same lists; null in a plan on another device.
  const int64_t* row_start = nullptr;   // into row_region: lists of row cells [K0 * K1], then of several
  const int32_t* row_region = nullptr;  // regions of each list, in order
  const Band* bands = nullptr;
  int64_t num_bands = 0;
};

// The plan of R regions, for any number of calls on any number of threads; its lists live as long as the
// pointer. Wrapped axes take any offset. With `cells` it also holds what the CUDA kernels look up, for the
// caller to copy to the device. Throws std::invalid_argument, in words, where a region leaves an axis that
// does not wrap or a list would grow past reason.
std::shared_ptr<const PlanView> make_plan(const int64_t* offsets /* [R, n] */, int64_t regions, int ndim,
                                          const int64_t* canvas /* [n] */, const int64_t* patch /* [n] */,
                                          const bool* wrap = nullptr /* [n]; null: no axis wraps */,
                                          bool cells = false);

// The weight of patch element j of region r: coefficient[r] * factor0[j0] * factor1[j1] * factor2[j2],
// or coefficient[r] * window[r or 0][j].
struct WeightView {
  bool separable = true;
  DType dtype = DType::f32;                                    // f32, or f64 when the patches are
  const void* factor[kMaxDims] = {nullptr, nullptr, nullptr};  // [s_i]; null for a leading axis
  const void* window = nullptr;                                // [R or 1, *s] when not separable
  int64_t window_regions = 1;                                  // R or 1
  const void* coefficient = nullptr;                           // [R] or null
};

// One tensor of a rotation, read as [B, H, T, D]: strides count elements, and the last axis is dense.
struct HeadsView {
  void* out = nullptr;                                          // may be `in`
  const void* in = nullptr;                                     // may be any part of a packed tensor
  int64_t heads = 0;                                            // H, each tensor's own
  int64_t out_stride[3] = {0, 0, 0}, in_stride[3] = {0, 0, 0};  // of B, H, T
};

// What the tensors of a rotation share.
struct RotationView {
  int64_t batch = 0, tokens = 0, pairs = 0;  // B, T, D / 2
  const void* table = nullptr;               // [B or 1, T, 2, D / 2] cosines, then sines; f32, f64 for f64
  bool table_per_sample = false;             // whether the table has the axis B
  bool interleaved = true;                   // pairs are channels (2j, 2j + 1), else (j, j + D / 2)
  bool inverse = false;                      // by the negative angle
};

// Which noise, and where: the stream (purpose, step) of every sample's seed, in a box of places with signed
// 32-bit coordinates. An axis that is not there has offset 0. Host memory, on every device.
struct NoiseView {
  const uint64_t* seed = nullptr;  // [B]
  uint32_t purpose = 0, step = 0;
  int64_t offset[kMaxDims] = {0, 0, 0};  // the first place
  int64_t size[kMaxDims] = {1, 1, 1};    // S
};

// Several answers to every region, as guidance needs them, combined while they are merged; and a solver's
// update of the canvas, made while the merged element is at hand. The default is neither.
struct Fusion {
  int64_t terms = 1;  // K; patches are [B, K, R, C, *s]
  const void* guidance =
      nullptr;  // [K - 1, R] in the weight's dtype: p = p_K + sum_k guidance[k,r] (p_k - p_K)

  // out = a x + b D + c noise, D the merged canvas; x and noise are [B, C, *S] in out's dtype, apart from
  // out.
  const void* x = nullptr;      // null: out = D, and nothing below is looked at
  const void* noise = nullptr;  // null: no third term
  double a = 0, b = 1, c = 0;
  const void* a_each = nullptr;  // [B] in the weight's dtype, another factor of a for each sample; null: 1
  const void* b_each = nullptr;  // likewise for b
};

// How the states of a spherical aggregate become one point.
enum class Fold : int32_t { great_circle, right_angle, mean };
constexpr int kMaxStates = 32;

// N states x_i, their means mu_i and their results, each [B, n]. Borrowed memory.
struct AggregateView {
  int count = 0;  // N, 1 to kMaxStates
  Fold fold = Fold::great_circle;
  bool over_batch = false;         // one distance ||x' - mu_i|| for the whole batch
  double weight[kMaxStates] = {};  // [N - 1]; [N] with sum 1 for Fold::mean
  double eta = 0.0;
  const double* etas = nullptr;  // [B], instead of eta, or null
  const void* state[kMaxStates] = {};
  const void* mean[kMaxStates] = {};
  void* out[kMaxStates] = {};
};

// One number for all samples, or one for each.
struct PerSample {
  double value = 1;
  const void* values = nullptr;  // [B], or null: `value`
  DType dtype = DType::f32;      // of the values
};

// What a pass over the phase space does, in this order. E is the kinetic energy 1/2 sum v^2 / M.
namespace part {
constexpr uint32_t refresh = 1;        // v <- damping v + sqrt(1 - damping^2) sqrt(M) noise
constexpr uint32_t langevin = 2;       // v <- v + sqrt(2 step_size) noise
constexpr uint32_t energy_before = 4;  // E of the refreshed v
constexpr uint32_t kick = 8;           // v <- v + step_size gradient
constexpr uint32_t half_kick = 16;     // v <- v + step_size / 2 gradient
constexpr uint32_t drift = 32;         // x <- x + step_size v / M
constexpr uint32_t energy_after = 64;  // E of the kicked v
}  // namespace part

// The steps of Hamiltonian Monte Carlo on B samples of `size` elements, whatever their axes. An output may be
// the input of its name; what no part reads or makes is null.
struct LeapfrogView {
  uint32_t parts = 0;
  DType dtype = DType::f32;  // of all states
  int64_t batch = 0, size = 0;
  const void* position = nullptr;       // x [B, size]
  const void* momentum = nullptr;       // v [B, size]; under langevin the position
  const void* gradient = nullptr;       // of the log density at x [B, size]
  const void* noise = nullptr;          // standard normal [B, size], or null: drawn
  NoiseView drawn;                      // [B, C, *S] with C prod(S) = size; no seed: none
  void* position_out = nullptr;         // [B, size]
  void* momentum_out = nullptr;         // [B, size]
  void* refreshed_out = nullptr;        // [B, size], v between a refresh and a kick
  double* energy_out = nullptr;         // [B]
  const void* mass_elements = nullptr;  // M [mass_samples, size], or null: mass
  int64_t mass_samples = 1;             // 1 or B
  PerSample step_size, damping, mass;   // [B] each
};

// A state, or the choice between two: [B, size] each, with the energies -log density and kinetic [B].
struct PhaseView {
  void* position = nullptr;
  void* momentum = nullptr;  // or null
  void* gradient = nullptr;  // or null
  void* energy = nullptr;
  void* kinetic_energy = nullptr;
};

struct SelectView {
  DType dtype = DType::f32;         // of position, momentum and gradient
  DType energy_dtype = DType::f64;  // of all energies
  int64_t batch = 0, size = 0;
  PhaseView current, proposed, out;  // out may be either of the others, tensor by tensor
  PerSample uniform;                 // in [0, 1)
  bool* accepted = nullptr;          // [B]
  double* probability = nullptr;     // [B]
};

// What a kernel found wrong; `where` is an index whose meaning depends on the code.
struct Status {
  enum Code : int32_t {
    ok,
    weight_not_finite,       // where: element, counted through the factors or the window
    coefficient_not_finite,  // where: region
    coefficient_negative,    // where: region; only under normalize
    total_not_positive,      // where: canvas element
    out_of_memory,
    launch_failed,  // detail: the driver's words
    unsupported,    // parts that no kernel was made for
  } code = ok;
  int64_t where = 0;
  const char* detail = nullptr;
};

namespace cpu {

// out[b,k,r,c,j] = cast(canvas[b,c,offset_r + j] * scale[b]) for each of the copies k. scale is f32, f64 when
// the canvas is; null = 1.
Status extract_patches(void* out /* [B,K,R,C,*s] */, DType out_dtype, const void* canvas /* [B,C,*S] */,
                       DType in_dtype, int64_t batch, int64_t channels, const PlanView& plan,
                       const void* scale /* [B] or null */, int threads, int64_t copies = 1 /* K */);

// out[b,c,x] = sum_r w_r(x - offset_r) patches[b,r,c,x - offset_r], divided by sum_r w_r under normalize.
// Sums run in the plan's order in f32 (f64 for f64 patches): equal bit for bit for any threads and batch.
Status scatter_average(void* out /* [B,C,*S] */, DType out_dtype, const void* patches /* [B,R,C,*s] */,
                       DType in_dtype, int64_t batch, int64_t channels, const PlanView& plan,
                       const WeightView& weight, bool normalize, int threads, const Fusion& fusion = {});

// out[x] = sum_r w_r(x - offset_r), in the weight's dtype.
Status weight_total(void* out /* [*S] */, DType out_dtype, const PlanView& plan, const WeightView& weight,
                    int threads);

// out[j] = exp(-((j - m) / n)^2 / (2 f^2)) / sqrt(2 pi f^2), m = (n - 1) / 2, in f64, stored as out_dtype
// (f32, f64).
Status gaussian_weights(void* out /* [s] */, DType out_dtype, int64_t size, double sigma_fraction);

// (a, b) -> (a cos - b sin, b cos + a sin) for each pair of channels of each head and token of up to two
// tensors of one dtype, in f32 (f64 for f64). A pair whose sine is zero never mixes its channels.
Status rope(const HeadsView* tensors /* [count] */, int count, DType dtype, const RotationView& rotation,
            int threads);

// out[b,c,x] = n(seed_b, purpose, step; c, offset + x): a standard normal that depends on these numbers
// alone, equal bit for bit on every instruction set and device. In f32 (f64 for f64), then stored as
// out_dtype.
Status canvas_noise(void* out /* [B,C,*S] */, DType out_dtype, int64_t batch, int64_t channels,
                    const NoiseView& noise, int threads);

// The 32-bit integers that they are made of; places 2k and 2k + 1 of the last axis share theirs.
Status canvas_integers(int64_t* out /* [B,C,*S] */, int64_t batch, int64_t channels, const NoiseView& noise,
                       int threads);

// out[b] = |x0|^(1-w) |x1|^w (sin((1-w) t) x0/|x0| + sin(w t) x1/|x1|) / sin t, t the angle between x0[b] and
// x1[b]; w = 0 and 1 copy an end. Inner products in f64, summed in one order for any threads.
Status slerp(void* out /* [B,n] */, const void* x0 /* [B,n] */, const void* x1 /* [B,n] */, DType dtype,
             int64_t batch, int64_t size, double w, const double* ws /* [B], instead of w, or null */,
             int threads);

// out_i[b] = x' - min(eta, r_i) (x' - mu_i) / r_i with r_i = ||x' - mu_i|| and x' the fold of all x_k[b]:
// m = x_1, then m = slerp(x_k, m; w_(k-1)). One pass for inner products in f64, one for the results.
Status spherical_aggregate(const AggregateView& view, DType dtype, int64_t batch, int64_t size, int threads);

// One pass of the parts asked for. Energies are summed in f64 in an order that depends on `size` alone.
Status leapfrog(const LeapfrogView& pass, int threads);

// probability[b] = min(1, exp(H_current - H_proposed)), H = energy + kinetic_energy, 0 where the difference
// is not finite; accepted[b] = uniform[b] < probability[b]; out[b] = the proposed state where accepted, else
// the current one, bit for bit, with its momentum negated.
Status metropolis_select(const SelectView& select, int threads);

// The instruction set whose kernels run here: "avx512", "avx2" or "baseline".
const char* simd();
// Use another one (tests compare them); false when this machine or build lacks it.
bool use_simd(const char* name);

}  // namespace cpu

namespace cuda {

// The same on the current device; plan, weights and scale live there, and `stream` is a cudaStream_t.
// Nothing waits for the device, so bad weights cannot be reported: where a total is not positive the result
// is NaN.
Status extract_patches(void* out, DType out_dtype, const void* canvas, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const void* scale, void* stream,
                       int64_t copies = 1);
Status scatter_average(void* out, DType out_dtype, const void* patches, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const WeightView& weight, bool normalize,
                       void* stream, const Fusion& fusion = {});
Status weight_total(void* out, DType out_dtype, const PlanView& plan, const WeightView& weight, void* stream);
Status gaussian_weights(void* out, DType out_dtype, int64_t size, double sigma_fraction, void* stream);
Status rope(const HeadsView* tensors, int count, DType dtype, const RotationView& rotation, void* stream);
Status canvas_noise(void* out, DType out_dtype, int64_t batch, int64_t channels, const NoiseView& noise,
                    void* stream);
Status canvas_integers(int64_t* out, int64_t batch, int64_t channels, const NoiseView& noise, void* stream);
// `partial` [B, leapfrog_partials(size)] f64 where an energy is asked for; two launches then, else one.
Status leapfrog(const LeapfrogView& pass, double* partial, void* stream);
int64_t leapfrog_partials(int64_t size);
// Two launches.
Status metropolis_select(const SelectView& select, void* stream);

// Two launches each. `sums` is memory for [B, gram_parts(n), products] partial sums: 3 products for slerp,
// N(N+1)/2 + N^2 + N for N states. gram_parts depends on n alone.
int64_t gram_parts(int64_t size);
Status slerp(void* out, const void* x0, const void* x1, DType dtype, int64_t batch, int64_t size, double w,
             const double* ws, double* sums, void* stream);
Status spherical_aggregate(const AggregateView& view, DType dtype, int64_t batch, int64_t size, double* sums,
                           void* stream);

}  // namespace cuda
}  // namespace intarsia
