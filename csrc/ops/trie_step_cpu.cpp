// The body of trie_step, compiled once per instruction set.
namespace genrec::GENREC_ISA {}
