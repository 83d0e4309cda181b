# SPDX-License-Identifier: Apache-2.0
# vmoba_warnings(target): the warnings every target of ours is built with; sanitizers where asked for.
function(vmoba_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-missing-field-initializers -Wno-psabi)
  if(VMOBA_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${VMOBA_SANITIZE} -fno-omit-frame-pointer -g1)
    target_link_options(${target} PUBLIC -fsanitize=${VMOBA_SANITIZE})
  endif()
endfunction()
