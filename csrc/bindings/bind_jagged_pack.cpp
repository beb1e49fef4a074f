#include "bindings/bindings.h"
#include "ops/jagged/jagged_pack.h"
#include "ops/jagged/jagged_product.h"
#include "ops/jagged/offsets.h"

namespace genrec::bindings {
namespace {

using Size = std::int64_t;

// Elements of any dtype, moved as so many bytes each: those behind the first `dims` dimensions.
struct Moved {
  void* data;
  Size bytes;

  Moved(const Tensor& found, int dims) : data(found.data), bytes(found.elements(dims) * found.element_size()) {}
  Moved(Arguments& given, const char* name, const char* shape, int dims, Layout layout = Layout::copied)
      : Moved(given.tensor(name, any_dtype, shape, layout), dims) {}
};

void check_alike(Arguments& given, const Moved& a, const Moved& b) {
  check(a.bytes == b.bytes, given.op(), ": elements must be of as many bytes, got ", a.bytes, " and ", b.bytes);
}

const Size* offsets_of(Arguments& given) { return given.in<Size>("offsets", "B+1"); }

void register_moves(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Size* const offsets = offsets_of(given);
    const Moved values(given, "values", "E ...", 1);
    const Tensor padding = given.tensor("padding", any_dtype, "", Layout::whole);
    const Moved padded(given, "padded", "B M ...", 2, Layout::whole);
    check_alike(given, values, padded);
    const PackArgs args{offsets, given.size('B'), values.bytes, given.threads()};
    const Size max_len = given.size('M'), item = padding.element_size();
    const auto unlocked = given.release();
    jagged_pad(args, values.data, max_len, padding.data, item, padded.data);
  }>(m, "jagged_pad");
  def<[](Arguments& given) {
    const Size* const offsets = offsets_of(given);
    const Moved padded(given, "padded", "B M ...", 2), values(given, "values", "E ...", 1, Layout::whole);
    check_alike(given, padded, values);
    const PackArgs args{offsets, given.size('B'), values.bytes, given.threads()};
    const Size max_len = given.size('M');
    const auto unlocked = given.release();
    jagged_unpad(args, padded.data, max_len, values.data);
  }>(m, "jagged_unpad");
  def<[](Arguments& given) {
    const Size* const offsets = offsets_of(given);
    const Moved rows(given, "rows", "B ...", 1), values(given, "values", "E ...", 1, Layout::whole);
    check_alike(given, rows, values);
    const PackArgs args{offsets, given.size('B'), values.bytes, given.threads()};
    const auto unlocked = given.release();
    jagged_spread(args, rows.data, values.data);
  }>(m, "jagged_spread");
  def<[](Arguments& given) {
    const auto offsets = given.all<Size>("offsets", "B+1");
    const bool back = given.flag("back");
    const auto parts = given.many<void>("parts", any_dtype, "e ...", back ? Layout::whole : Layout::copied);
    const Moved joined(given, "joined", "E ...", 1, back ? Layout::copied : Layout::whole);
    check(offsets.count() == parts.count(), given.op(), ": offsets must be one per part, got ", offsets.count(),
          " for ", parts.count());
    const JoinArgs args{offsets.data.data(), parts.count(), given.size('B'), joined.bytes, given.threads()};
    const auto unlocked = given.release();
    if (back)
      jagged_part(args, joined.data, parts.data.data());
    else
      jagged_join(args, parts.data.data(), joined.data);
  }>(m, "jagged_join");
  def<[](Arguments& given) {
    const Moved table(given, "table", "V ...", 1);
    const Tensor ids = given.tensor("ids", only<Size>, "...", Layout::copied);
    const Moved out(given, "out", "...", 0, Layout::whole);
    const Size rows = given.size('V'), count = ids.elements(), bytes = out.bytes == 0 ? 0 : table.bytes;
    check(out.bytes == count * bytes, given.op(), ": out must have room for ", count, " rows, got ", out.bytes,
          " bytes");
    const int threads = given.threads();
    const auto unlocked = given.release();
    gather_rows(table.data, rows, bytes, static_cast<const Size*>(ids.data), count, threads, out.data);
  }>(m, "gather_rows");
  def<[](Arguments& given) {
    const Size* const ids = given.in<Size>("ids", "I");
    const Size rows = given.number("table_rows"), count = given.size('I');
    Size *const order = given.out<Size>("order", "I"), *const unique = given.out<Size>("unique", "I"),
                *const starts = given.out<Size>("starts", "I+1");
    const auto unlocked = given.release();
    return group_ids(ids, count, rows, order, unique, starts);
  }>(m, "group_ids");
}

void register_products(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor values = given.tensor("values", floats, "E ...", Layout::copied);
    SegmentArgs args{};
    args.values = values.data;
    args.element = float_number(values.dtype);
    args.order = given.maybe<Size>("order", "I");
    args.offsets = offsets_of(given);
    args.num_rows = given.size('B');
    args.width = values.elements(1);
    const bool placed = !given.is_none("to");
    if (placed) args.to = given.in<Size>("to", "B");
    const Tensor out = given.tensor("out", only<float>, "r ...", Layout::whole);
    check(placed || out.elements() == args.num_rows * args.width, given.op(), ": out must be of ", args.num_rows,
          " rows, got ", out.text());
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    segment_sum(args, static_cast<float*>(out.data));
  }>(m, "segment_sum");
  def<[](Arguments& given) {
    const Size* const offsets = offsets_of(given);
    const bool transposed = given.flag("transposed");
    const float *const values = given.in<float>("values", "E K"),
                       *const dense = given.in<float>("dense", transposed ? "B M K" : "B K M"),
                       *const bias = given.maybe<float>("bias", "B M");
    float* const out = given.out<float>("out", "E M");
    const JaggedProduct args{offsets, given.size('B'), given.size('K'), given.size('M'), transposed, given.threads()};
    const auto unlocked = given.release();
    jagged_dense_matmul(args, values, dense, bias, out);
  }>(m, "jagged_dense_matmul");
  def<[](Arguments& given) {
    const Size* const offsets = offsets_of(given);
    const float *const a = given.in<float>("a", "E K"), *const b = given.in<float>("b", "E M");
    float* const out = given.out<float>("out", "B K M");
    const JaggedProduct args{offsets, given.size('B'), given.size('K'), given.size('M'), false, given.threads()};
    const auto unlocked = given.release();
    jagged_jagged_matmul(args, a, b, out);
  }>(m, "jagged_jagged_matmul");
}

}  // namespace

void register_jagged_pack(pybind11::module_& m) {
  def<[](Arguments& given) {
    const std::string op = given.text("op"), name = given.text("name");
    const Size* const offsets = offsets_of(given);
    const Size rows = given.size('B'), total = given.number("total");
    const auto unlocked = given.release();
    check_offsets(op, name, offsets, rows, total);
  }>(m, "check_offsets");
  register_moves(m);
  register_products(m);
}

}  // namespace genrec::bindings
