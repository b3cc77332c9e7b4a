// model/amx_blocks.cc with emulated instructions, in place of the library's: its first include finds tests/emulation/immintrin.h.
#ifdef __x86_64__
#define LLMC_AMX
#include "model/amx_blocks.cc"

namespace llmc {

bool has_amx() { return true; }

}  // namespace llmc
#endif
