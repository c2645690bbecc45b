! Sends the fields of a running solver to a sciflow trainer: a Fortran 2003 module over sciflow_online.c.
!
!     type(sciflow_client) :: online
!     call online%connect(rank, ranks)
!     do while (online%next(parameters) == 1)
!        ...
!        code = online%send(time, 'temperature', u)        ! once per time level
!        if (code /= 0) exit
!        ...
!        code = online%finish(code == 0)
!     end do
!     call online%close()
!
! The meaning of the calls and of their codes stands in sciflow_online.h. Here first and positions count
! from 1. An array is sent in its order in memory, so u(i, j) is a field with the axes (j, i).
module sciflow_online
   use, intrinsic :: iso_c_binding, only: c_ptr, c_null_ptr, c_associated, c_f_pointer, c_char, c_null_char, &
      c_int, c_int64_t, c_size_t, c_double
   implicit none
   private
   public :: sciflow_client, sciflow_ok, sciflow_aborted, sciflow_failed

   integer, parameter :: sciflow_ok = 0      ! sent
   integer, parameter :: sciflow_aborted = 1 ! the trainer gave this member up: ask for the next
   integer, parameter :: sciflow_failed = 2  ! error() says what happened

   type :: sciflow_client
      private
      type(c_ptr) :: handle = c_null_ptr
   contains
      procedure :: connect
      procedure :: next
      procedure, private :: send_1d
      procedure, private :: send_2d
      procedure, private :: send_3d
      generic :: send => send_1d, send_2d, send_3d
      procedure :: index => send_index
      procedure :: finish
      procedure :: alive
      procedure :: error
      procedure :: member
      procedure :: close => close_client
   end type sciflow_client

   interface
      function c_connect(address_file, group, rank, ranks) bind(c, name='sciflow_connect') result(client)
         import :: c_ptr, c_int
         type(c_ptr), value :: address_file, group
         integer(c_int), value :: rank, ranks
         type(c_ptr) :: client
      end function c_connect

      function c_next(client, parameters, n) bind(c, name='sciflow_next') result(code)
         import :: c_ptr, c_int, c_double
         type(c_ptr), value :: client
         real(c_double), intent(out) :: parameters(*)
         integer(c_int), value :: n
         integer(c_int) :: code
      end function c_next

      function c_send(client, time, field, values, start, count) bind(c, name='sciflow_send') result(code)
         import :: c_ptr, c_int, c_double, c_char, c_size_t
         type(c_ptr), value :: client
         real(c_double), value :: time
         character(kind=c_char), intent(in) :: field(*)
         real(c_double), intent(in) :: values(*)
         integer(c_size_t), value :: start, count
         integer(c_int) :: code
      end function c_send

      function c_index(client, field, positions, start, count) bind(c, name='sciflow_index') result(code)
         import :: c_ptr, c_int, c_int64_t, c_char, c_size_t
         type(c_ptr), value :: client
         character(kind=c_char), intent(in) :: field(*)
         integer(c_int64_t), intent(in) :: positions(*)
         integer(c_size_t), value :: start, count
         integer(c_int) :: code
      end function c_index

      function c_finish(client, ok, reason) bind(c, name='sciflow_finish') result(code)
         import :: c_ptr, c_int
         type(c_ptr), value :: client, reason
         integer(c_int), value :: ok
         integer(c_int) :: code
      end function c_finish

      function c_alive(client) bind(c, name='sciflow_alive') result(code)
         import :: c_ptr, c_int
         type(c_ptr), value :: client
         integer(c_int) :: code
      end function c_alive

      subroutine c_close(client) bind(c, name='sciflow_close')
         import :: c_ptr
         type(c_ptr), value :: client
      end subroutine c_close

      function c_error(client) bind(c, name='sciflow_error') result(text)
         import :: c_ptr
         type(c_ptr), value :: client
         type(c_ptr) :: text
      end function c_error

      function c_member(client) bind(c, name='sciflow_member') result(member)
         import :: c_ptr, c_int64_t
         type(c_ptr), value :: client
         integer(c_int64_t) :: member
      end function c_member

      function c_strlen(text) bind(c, name='strlen') result(length)
         import :: c_ptr, c_size_t
         type(c_ptr), value :: text
         integer(c_size_t) :: length
      end function c_strlen
   end interface

contains

   !> Connects this rank. What went wrong is told by the first call of next.
   subroutine connect(self, rank, ranks, address_file, group)
      class(sciflow_client), intent(inout) :: self
      integer, intent(in) :: rank, ranks
      character(len=*), intent(in), optional :: address_file, group
      character(kind=c_char), allocatable, target :: file_text(:), group_text(:)
      call c_text(address_file, file_text)
      call c_text(group, group_text)
      self%handle = c_connect(address_of(file_text), address_of(group_text), int(rank, c_int), &
                              int(ranks, c_int))
   end subroutine connect

   !> 1: a member and its parameters, 0: no more work, -1: an error.
   function next(self, parameters) result(code)
      class(sciflow_client), intent(in) :: self
      real(c_double), intent(out) :: parameters(:)
      integer :: code
      code = int(c_next(self%handle, parameters, int(size(parameters), c_int)))
   end function next

   function send_1d(self, time, field, values, first) result(code)
      class(sciflow_client), intent(in) :: self
      real(c_double), intent(in) :: time
      character(len=*), intent(in) :: field
      real(c_double), intent(in) :: values(:)
      integer, intent(in), optional :: first
      integer :: code
      code = send_flat(self, time, field, values, size(values), first)
   end function send_1d

   function send_2d(self, time, field, values, first) result(code)
      class(sciflow_client), intent(in) :: self
      real(c_double), intent(in) :: time
      character(len=*), intent(in) :: field
      real(c_double), intent(in) :: values(:, :)
      integer, intent(in), optional :: first
      integer :: code
      code = send_flat(self, time, field, values, size(values), first)
   end function send_2d

   function send_3d(self, time, field, values, first) result(code)
      class(sciflow_client), intent(in) :: self
      real(c_double), intent(in) :: time
      character(len=*), intent(in) :: field
      real(c_double), intent(in) :: values(:, :, :)
      integer, intent(in), optional :: first
      integer :: code
      code = send_flat(self, time, field, values, size(values), first)
   end function send_3d

   !> Of any rank: a slice that is not contiguous is copied by the compiler on the way in.
   function send_flat(self, time, field, values, count, first) result(code)
      class(sciflow_client), intent(in) :: self
      real(c_double), intent(in) :: time
      character(len=*), intent(in) :: field
      real(c_double), intent(in) :: values(*)
      integer, intent(in) :: count
      integer, intent(in), optional :: first
      integer :: code
      code = int(c_send(self%handle, time, trim(field)//c_null_char, values, start_of(first), &
                        int(count, c_size_t)))
   end function send_flat

   !> Positions, from 1, of the values that are sent later with the same first and size.
   function send_index(self, field, positions, first) result(code)
      class(sciflow_client), intent(in) :: self
      character(len=*), intent(in) :: field
      integer, intent(in) :: positions(:)
      integer, intent(in), optional :: first
      integer :: code
      integer(c_int64_t), allocatable :: from_zero(:)
      allocate (from_zero(size(positions)))
      from_zero = int(positions, c_int64_t) - 1
      code = int(c_index(self%handle, trim(field)//c_null_char, from_zero, start_of(first), &
                         int(size(positions), c_size_t)))
   end function send_index

   !> Ends the member, as computed or, with ok false, as failed for a reason.
   function finish(self, ok, reason) result(code)
      class(sciflow_client), intent(in) :: self
      logical, intent(in) :: ok
      character(len=*), intent(in), optional :: reason
      integer :: code
      character(kind=c_char), allocatable, target :: text(:)
      call c_text(reason, text)
      code = int(c_finish(self%handle, merge(1_c_int, 0_c_int, ok), address_of(text)))
   end function finish

   !> A sign of life, for a solver that computes for minutes between two other calls.
   function alive(self) result(code)
      class(sciflow_client), intent(in) :: self
      integer :: code
      code = int(c_alive(self%handle))
   end function alive

   !> The last error as a sentence, or ''.
   function error(self) result(text)
      class(sciflow_client), intent(in) :: self
      character(len=:), allocatable :: text
      character(kind=c_char), pointer :: said(:)
      type(c_ptr) :: from
      integer :: i
      from = c_error(self%handle)
      call c_f_pointer(from, said, [c_strlen(from)])
      allocate (character(len=size(said)) :: text)
      do i = 1, size(said)
         text(i:i) = said(i)
      end do
   end function error

   !> Number of the present or the last member, from 0; -1 before the first.
   function member(self) result(number)
      class(sciflow_client), intent(in) :: self
      integer(c_int64_t) :: number
      number = c_member(self%handle)
   end function member

   subroutine close_client(self)
      class(sciflow_client), intent(inout) :: self
      call c_close(self%handle)
      self%handle = c_null_ptr
   end subroutine close_client

   function start_of(first) result(start)
      integer, intent(in), optional :: first
      integer(c_size_t) :: start
      start = 0
      if (present(first)) start = int(first, c_size_t) - 1
   end function start_of

   !> A text with the null character at its end; not allocated if there is no text.
   subroutine c_text(text, made)
      character(len=*), intent(in), optional :: text
      character(kind=c_char), allocatable, intent(out) :: made(:)
      integer :: i
      if (.not. present(text)) return
      allocate (made(len_trim(text) + 1))
      do i = 1, len_trim(text)
         made(i) = text(i:i)
      end do
      made(len_trim(text) + 1) = c_null_char
   end subroutine c_text

   function address_of(text) result(address)
      use, intrinsic :: iso_c_binding, only: c_loc
      character(kind=c_char), allocatable, target, intent(in) :: text(:)
      type(c_ptr) :: address
      address = c_null_ptr
      if (allocated(text)) address = c_loc(text(1))
   end function address_of

end module sciflow_online
