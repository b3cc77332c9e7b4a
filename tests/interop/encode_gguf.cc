// Encodes the rows of a .npy file as a GGUF type, for tests that compare with other encoders.
//
//     llmc_encode_gguf TYPE ROWS.npy IMPORTANCE.npy|- OUT
#include <fstream>
#include <iostream>

#include "calib/npy.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "passes/block_search.h"

using namespace llmc;

namespace {

Matrix read_rows(const std::string& path) {
  const MappedFile file(path);
  const TensorView view = parse_npy(file.bytes(), path);
  Matrix rows(view.shape.size() == 1 ? 1 : view.shape[0], view.shape.back());
  decode_floats(view.dtype, view.bytes, rows.values());
  return rows;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 5) throw Error(ErrorKind::usage, "llmc_encode_gguf TYPE ROWS.npy IMPORTANCE.npy|- OUT");
  const Matrix rows = read_rows(argv[2]);
  const Matrix importance = std::string(argv[3]) == "-" ? Matrix() : read_rows(argv[3]);
  const auto bytes = encode_gguf(get_gguf_type(std::string(argv[1]), "TYPE"), rows.view(), importance.values(), argv[2]);
  std::ofstream(argv[4], std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
