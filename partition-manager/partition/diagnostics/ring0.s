# Ring 0 of the diagnostics payload: entry, tables, interrupt stubs, services for ring 3.
#
# Some hosts interpret ring 0 instruction by instruction, so the tables are built by the assembler rather
# than by loops, the stubs are short, and everything that may be compiled is left to ring 3. Plain x86-64
# integer instructions only: no SSE, no `int n`, no `syscall`.
#
# Stacks: every interrupt comes in on an interrupt stack (IST) of its processor, whatever was running, so
# the processor's record is always at the same distance above the stack pointer: 40 bytes (SS, RSP,
# RFLAGS, CS, RIP) plus what the stub has pushed.

.set GDT_CODE32, 0x08
.set GDT_CODE64, 0x10
.set USER_DATA, 0x2b
.set USER_CODE, 0x33
.set FIRST_TSS, 0x38
.set IOPL3, 0x3000
.set MSR_EFER, 0xc0000080
.set EFER_LME, 0x100
.set CR4_VALUE, 0x620            # PAE, OSFXSR, OSXMMEXCPT
.set CR0_VALUE, 0x80000033       # PG, NE, ET, MP, PE

# ---------------------------------------------------------------- gates' targets, at known addresses
# The halves of a gate's address cannot be relocated by a linker, so the first instructions of every
# vector lie where the assembler knows them: a slow stub of 16 bytes each, then the fast stubs of the
# I/O APIC pins.
.section .fixed, "ax"
slow_stubs:
.set vector, 0
.rept 256
    .org vector * 16
    .if vector == 2
        jmp nmi_entry
    .elseif vector == 6
        jmp service_entry
    .elseif (vector == 8) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
        push vector
        jmp fault_entry
    .elseif (vector >= 10) && (vector <= 14)
        push vector
        jmp fault_entry
    .elseif vector < 32
        push 0
        push vector
        jmp fault_entry
    .elseif vector == {TIMER_VECTOR}
        jmp timer_entry
    .elseif vector == {SCI_VECTOR}
        jmp sci_entry
    .elseif vector == {SPURIOUS_VECTOR}
        lock inc qword ptr [{PROBE_INTERRUPTS} + {SPURIOUS_VECTOR} * 8]
        iretq
    .else
        push vector
        jmp other_entry
    .endif
    .set vector, vector + 1
.endr

# Fast stubs: stamp first, then count, wake, end.
    .org 0x1000
.set vector, {PIN_VECTOR}
.rept 32
    .org 0x1000 + (vector - {PIN_VECTOR}) * 64
    push rax
    push rdx
    rdtsc
    mov dword ptr [{PROBE_INTERRUPT_TSC}], eax
    mov dword ptr [{PROBE_INTERRUPT_TSC} + 4], edx
    lock inc qword ptr [{PROBE_INTERRUPTS} + vector * 8]
    inc dword ptr [rsp + 56 + {EVENTS}]
    jmp end_of_device_interrupt
    .set vector, vector + 1
.endr

# The first instructions of another processor, copied below 1 MiB; CS = TRAMPOLINE >> 4, real mode.
    .org 0x1800
.global trampoline
.global trampoline_end
.code16
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    lgdt [{TRAMPOLINE} + 0x40]
    mov eax, 0x11                                 # PE, ET
    mov cr0, eax
    .byte 0x66, 0xea                              # jmp GDT_CODE32:ap_32
    .long ap_32
    .word GDT_CODE32
    .org 0x1840
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:
.code64

# ---------------------------------------------------------------- the PVH entry note
# Xen's public elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY is type 18.
.section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry

# ---------------------------------------------------------------- task states
# One after the other, then one I/O permission bitmap for all: some hosts lose IOPL on the way to ring 3,
# and then only the bitmap lets ring 3 reach ports. It is all zeros, so it costs nothing in the file.
.section .tss, "aw"
.global boot_tss
boot_tss:
    .long 0
    .quad {PROCESSORS} + {SERVICE_STACK_TOP}
    .quad 0, 0, 0
    .quad {PROCESSORS} + {RECORD}
    .quad {PROCESSORS} + {NMI_STACK_TOP}
    .quad {PROCESSORS} + {FAULT_STACK_TOP}
    .quad 0, 0, 0, 0, 0
    .word 0, {MAX_PROCESSORS} * {TSS_SIZE}
    .org {TSS_SIZE}
.section .other_tss, "aw", @nobits
.global other_tss
other_tss:                                        # filled in before a processor is started
    .zero ({MAX_PROCESSORS} - 1) * {TSS_SIZE}
    .zero 8192 + {TSS_SIZE}

# ---------------------------------------------------------------- tables
.section .tables, "aw"
.balign 4096
page_map:
    .quad page_directory_pointers + 0x27          # present, writable, user, accessed
    .zero 4088
page_directory_pointers:
.set i, 0
.rept 4
    .quad page_directories + i * 4096 + 0x27
    .set i, i + 1
.endr
    .zero 4064
page_directories:                                 # 4 GiB, one to one, in pages of 2 MiB, user accessible
.set i, 0
.rept 2048
    .quad i * 0x200000 + 0xe7
    .set i, i + 1
.endr

idt:
.set vector, 0
.rept 256
    .set target, {FIXED} + vector * 16
    .set ist, 1
    .set kind, 0x8e
    .if vector == 2
        .set ist, 2
    .elseif vector == 6
        .set ist, 0
        .set kind, 0x8f                           # a trap gate: a service leaves interrupts as they are
    .elseif vector < 32
        .set ist, 3
    .elseif (vector >= {PIN_VECTOR}) && (vector < {PIN_VECTOR} + 32) && (vector != {SCI_VECTOR})
        .set target, {FIXED} + 0x1000 + (vector - {PIN_VECTOR}) * 64
    .endif
    .quad (target & 0xffff) | (GDT_CODE64 << 16) | (ist << 32) | (kind << 40) | ((target >> 16) << 48)
    .quad 0
    .set vector, vector + 1
.endr

.global gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff                      # 0x08: 32-bit code
    .quad 0x00af9b000000ffff                      # 0x10: 64-bit code
    .quad 0x00cf93000000ffff                      # 0x18: data
    .quad 0
    .quad 0x00cff3000000ffff                      # 0x28: user data
    .quad 0x00affb000000ffff                      # 0x30: user 64-bit code
    .quad boot_tss_descriptor                     # link.ld
    .quad 0
    .zero ({MAX_PROCESSORS} - 1) * 16             # filled in before a processor is started
gdt_end:

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
no_idt_pointer:
    .word 0
    .quad 0

.balign 8
boot_frame:                                       # what the boot processor returns to ring 3 with
    .quad boot_main, USER_CODE, IOPL3 | 2, boot_stack_top - 8, USER_DATA
fault_frame:
    .quad on_fault, USER_CODE, IOPL3 | 2, emergency_stack_top - 8, USER_DATA
nmi_frame:
    .quad on_nmi, USER_CODE, IOPL3 | 2, emergency_stack_top - 8, USER_DATA

service_table:
    .quad service_operations, service_wait, service_output, service_mask, service_unmask
    .quad service_crash, service_triple_fault
.set SERVICES, 7

.global x2apic_in_use
x2apic_in_use:
    .long 0
next_processor:
    .long 0
faulted:
    .long 0
.global nmi_armed
nmi_armed:                                        # not zero: the next NMI ends the payload
    .long 0
.global pm1_port
pm1_port:                                         # ACPI PM1 status register, or 0 where there is none
    .long 0
.global pm1_status
pm1_status:                                       # status bits seen by the SCI stub, for ring 3 to take
    .long 0
.balign 8
.global fault_record
fault_record:                                     # vector, error code, RIP, CR2
    .quad 0, 0, 0, 0

.section .bss
.balign 16
boot_stack:
    .zero 32768
boot_stack_top:
emergency_stack:
    .zero 8192
emergency_stack_top:

.section .processors, "aw", @nobits
    .zero {MAX_PROCESSORS} * {BLOCK}

# ---------------------------------------------------------------- entry
.section .text
.code32
.global pvh_entry
pvh_entry:                                        # 32-bit, no paging; ebx = hvm_start_info
    cli
    lgdt [gdt_pointer]
    mov eax, CR4_VALUE
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, EFER_LME
    xor edx, edx
    wrmsr
    mov eax, CR0_VALUE
    mov cr0, eax
    .byte 0xea                                    # jmp GDT_CODE64:boot_64
    .long boot_64
    .word GDT_CODE64

ap_32:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, CR4_VALUE
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, EFER_LME
    xor edx, edx
    wrmsr
    mov eax, CR0_VALUE
    mov cr0, eax
    .byte 0xea
    .long ap_64
    .word GDT_CODE64

.code64
boot_64:
    lidt [idt_pointer]
    mov eax, FIRST_TSS
    ltr ax
    mov edi, ebx
    mov esp, offset boot_frame
    iretq

ap_64:
    lidt [idt_pointer]
    mov eax, 1
    lock xadd dword ptr [next_processor], eax
    inc eax                                       # the boot processor is 0
    cmp eax, {MAX_PROCESSORS}
    jae 2f
    mov edi, eax
    shl eax, 4
    add eax, FIRST_TSS
    ltr ax
    mov eax, edi
    imul eax, eax, {BLOCK}
    add eax, {PROCESSORS}
    lea rsp, [rax + {SERVICE_STACK_TOP}]
    add eax, {BLOCK} - 8
    push USER_DATA
    push rax
    push IOPL3 | 2
    push USER_CODE
    push offset processor_main
    iretq
2:  hlt
    jmp 2b

# ---------------------------------------------------------------- interrupts
sci_entry:                                        # level: quiet the source before the end of interrupt
    push rax
    push rdx
    rdtsc
    mov dword ptr [{PROBE_INTERRUPT_TSC}], eax
    mov dword ptr [{PROBE_INTERRUPT_TSC} + 4], edx
    mov edx, dword ptr [pm1_port]
    test edx, edx
    jz 2f
    in ax, dx
    out dx, ax
    movzx eax, ax
    lock or dword ptr [pm1_status], eax
2:  lock inc qword ptr [{PROBE_INTERRUPTS} + {SCI_VECTOR} * 8]
    inc dword ptr [rsp + 56 + {EVENTS}]
end_of_device_interrupt:
    cmp dword ptr [x2apic_in_use], 0
    je 3f
    push rcx
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rcx
    pop rdx
    pop rax
    iretq
3:  mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rdx
    pop rax
    iretq

other_entry:                                      # the vector is on the stack
    xchg rax, [rsp]
    push rdx
    lock inc qword ptr [{PROBE_INTERRUPTS} + rax * 8]
    inc dword ptr [rsp + 56 + {EVENTS}]
    jmp end_of_device_interrupt

# A beat. Deadlines are absolute; periods that went by unseen are counted as missed.
timer_entry:
    push rax
    push rdx
    push rcx
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rcx, [rsp + 64 + {LAST}]
    mov [rsp + 64 + {LAST}], rax
    test rcx, rcx
    jz 2f
    mov rdx, rax
    sub rdx, rcx
    cmp rdx, [rsp + 64 + {LARGEST}]
    ja larger_gap
2:  mov rcx, [rsp + 64 + {PUBLISHED}]
    inc qword ptr [rcx]
    lock inc qword ptr [{PROBE_INTERRUPTS} + {TIMER_VECTOR} * 8]
    inc dword ptr [rsp + 64 + {EVENTS}]
    mov rcx, [rsp + 64 + {DEADLINE}]
    add rcx, [rsp + 64 + {PERIOD}]
    cmp rcx, rax
    jbe late_beat
3:  mov [rsp + 64 + {DEADLINE}], rcx
    cmp dword ptr [rsp + 64 + {ONE_SHOT}], 0
    jne one_shot
    mov rax, rcx
    mov rdx, rcx
    shr rdx, 32
    mov ecx, 0x6e0
    wrmsr
4:  pop rcx
    jmp end_of_device_interrupt

larger_gap:                                       # rdx: gap in cycles
    mov [rsp + 64 + {LARGEST}], rdx
    mov rcx, rax
    mov rax, rdx
    mul qword ptr [rsp + 64 + {NANOSECONDS}]
    shrd rax, rdx, 32
    mov rdx, [rsp + 64 + {PUBLISHED}]
    mov [rdx + 8], rax
    mov rax, rcx
    jmp 2b

late_beat:                                        # rcx: the deadline that has passed; rax: now
    sub rax, rcx
    xor edx, edx
    div qword ptr [rsp + 64 + {PERIOD}]
    inc rax
    add [rsp + 64 + {MISSED}], rax
    mul qword ptr [rsp + 64 + {PERIOD}]
    add rcx, rax
    jmp 3b

one_shot:                                         # rcx: deadline; the local APIC counts down to it
    sub rcx, [rsp + 64 + {LAST}]
    mov rax, rcx
    mul qword ptr [rsp + 64 + {COUNTS}]
    shrd rax, rdx, 32
    inc eax
    cmp dword ptr [x2apic_in_use], 0
    je 5f
    xor edx, edx
    mov ecx, 0x838
    wrmsr
    jmp 4b
5:  mov ecx, 0xfee00380
    mov dword ptr [rcx], eax
    jmp 4b

nmi_entry:
    lock inc qword ptr [{PROBE_INTERRUPTS} + 2 * 8]
    push rax
    xor eax, eax
    xchg dword ptr [nmi_armed], eax
    test eax, eax
    pop rax
    jnz 2f
    iretq
2:  mov rsp, offset nmi_frame
    iretq

fault_entry:                                      # on the stack: vector, error code, RIP, ...
    mov eax, 1
    xchg dword ptr [faulted], eax
    test eax, eax
    jnz service_triple_fault
    pop qword ptr [fault_record]
    pop qword ptr [fault_record + 8]
    pop qword ptr [fault_record + 16]
    mov rax, cr2
    mov [fault_record + 24], rax
    mov rsp, offset fault_frame
    iretq

# ---------------------------------------------------------------- services for ring 3
# rax: which; rdi, rsi, rdx: arguments. Clobbers rax, rcx, rdx, rsi, rdi.
.global ring0_service
ring0_service:
    ud2
    ret

service_entry:
    cmp dword ptr [rsp], offset ring0_service
    jne 2f
    cmp eax, SERVICES
    jae 2f
    add qword ptr [rsp], 2
    jmp [service_table + rax * 8]
2:  push 0
    push 6
    jmp fault_entry

service_operations:                               # rdi: operations of 24 bytes; rsi: how many
    push rbx
2:  mov ecx, [rdi + 4]
    mov eax, [rdi]
    dec eax
    js 3f
    jz 4f
    mov eax, ecx                                  # kind 2: cpuid
    mov ecx, [rdi + 16]
    cpuid
    mov [rdi + 8], eax
    mov [rdi + 12], ebx
    mov [rdi + 16], ecx
    mov [rdi + 20], edx
    jmp 5f
3:  rdmsr                                         # kind 0
    mov [rdi + 8], eax
    mov [rdi + 12], edx
    jmp 5f
4:  mov eax, [rdi + 8]                            # kind 1
    mov edx, [rdi + 12]
    wrmsr
5:  add rdi, 24
    dec rsi
    jnz 2b
    pop rbx
    iretq

service_wait:                                     # halt unless the 32-bit word at rdi is no longer esi
    cli
    cmp dword ptr [rdi], esi
    jne 2f
    sti
    hlt
2:  iretq

service_output:                                   # rsi bytes at rdi to port dx
    mov ecx, esi
    mov rsi, rdi
    rep outsb
    iretq

service_mask:
    and dword ptr [rsp + 16], ~0x200
    iretq

service_unmask:
    or dword ptr [rsp + 16], 0x200
    iretq

service_crash:                                    # run where there is no memory
    mov eax, {UNBACKED}
    jmp rax

service_triple_fault:
    lidt [no_idt_pointer]
    ud2
