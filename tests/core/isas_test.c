/* What the processor is found to run: `isas_test NAME...`, the expected names, best first. Run
 * under an emulator of older processors, which also faults at an instruction that they lack. */
#include "core/embedfilter.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    const size_t n_expected = (size_t)argc - 1, count = ef_isa_count();
    bool same = count == n_expected && strcmp(ef_get_isa(), ef_isa_name(0)) == 0;
    for (size_t i = 0; i < count; i++) {
        printf("%s%s", i > 0 ? " " : "", ef_isa_name(i));
        same = same && strcmp(ef_isa_name(i), argv[i + 1]) == 0;
        same = same && ef_set_isa(ef_isa_name(i)) == EF_OK;
        same = same && strcmp(ef_get_isa(), ef_isa_name(i)) == 0;
    }
    printf("%s\n", same ? "" : ": not what was expected");
    const bool refused = ef_set_isa("none") == EF_UNAVAILABLE;
    return !(same && refused && strcmp(ef_get_isa(), ef_isa_name(count - 1)) == 0);
}
