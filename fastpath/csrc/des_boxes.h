/* The S-boxes of DES in two-input gates, found by search/find_boxes.c. g0 is the first of the six
 * inputs, SLICE_OUT gives the n-th of the four outputs. Included by des_slices.h.
 */

/* 65 gates */
SLICE_BOX(1)
{
    slice g6 = g5 ^ g4; slice g7 = g6 | g5; slice g8 = g7 & g3; slice g9 = g6 ^ g8;
    slice g10 = g4 & g0; slice g11 = g10 ^ g2; slice g12 = g11 & g3; slice g13 = g0 ^ g12;
    slice g14 = g13 & ~g1; slice g15 = g9 ^ g14; slice g16 = ~g11; slice g17 = g6 | g0;
    slice g18 = g17 & g3; slice g19 = g16 ^ g18; slice g20 = g19 | g6; slice g21 = g20 ^ g13;
    slice g22 = g21 & g1; slice g23 = g19 ^ g22; slice g24 = g23 & ~g2; slice g25 = g15 ^ g24;
    slice g26 = g21 ^ g16; slice g27 = g6 & ~g26; slice g28 = g27 & g4; slice g29 = g26 ^ g28;
    slice g30 = g28 | g19; slice g31 = g20 ^ g18; slice g32 = g31 & ~g4; slice g33 = g30 ^ g32;
    slice g34 = g33 & g1; slice g35 = g29 ^ g34; slice g36 = g32 & ~g35; slice g37 = g36 | g16;
    slice g38 = g25 & ~g9; slice g39 = g30 & ~g38; slice g40 = g39 | g1; slice g41 = g37 ^ g40;
    slice g42 = g41 | g3; slice g43 = g35 ^ g42; slice g44 = g41 ^ g8; slice g45 = g44 | g22;
    slice g46 = g39 & g22; slice g47 = g3 & ~g46; slice g48 = g47 | g2; slice g49 = g45 ^ g48;
    slice g50 = g34 & ~g6; slice g51 = g50 ^ g37; slice g52 = g43 ^ g15; slice g53 = g39 & ~g52;
    slice g54 = g53 | g2; slice g55 = g51 ^ g54; slice g56 = g55 & g0; slice g57 = g49 ^ g56;
    slice g58 = g57 ^ g52; slice g59 = g58 ^ g24; slice g60 = g54 | g42; slice g61 = g60 & ~g1;
    slice g62 = g59 ^ g61; slice g63 = g55 ^ g21; slice g64 = g31 & ~g63; slice g65 = g62 ^ g44;
    slice g66 = g65 ^ g6; slice g67 = g66 & g1; slice g68 = g64 ^ g67; slice g69 = g68 & g4;
    slice g70 = g62 ^ g69; SLICE_OUT(1, 0, g25) SLICE_OUT(1, 1, g43) SLICE_OUT(1, 2, g57)
    SLICE_OUT(1, 3, g70)
}

/* 61 gates */
SLICE_BOX(2)
{
    slice g6 = g4 ^ g0; slice g7 = ~g5; slice g8 = g7 & g1; slice g9 = g6 ^ g8; slice g10 = g9 & g4;
    slice g11 = g8 & ~g10; slice g12 = g11 | g3; slice g13 = g9 ^ g12; slice g14 = g7 | g1;
    slice g15 = g14 ^ g11; slice g16 = g4 & ~g7; slice g17 = g16 & g3; slice g18 = g15 ^ g17;
    slice g19 = g18 | g2; slice g20 = g13 ^ g19; slice g21 = g18 ^ g10; slice g22 = g21 & ~g20;
    slice g23 = g22 ^ g0; slice g24 = g23 & ~g4; slice g25 = g21 ^ g24; slice g26 = g16 ^ g10;
    slice g27 = g26 | g2; slice g28 = g25 ^ g27; slice g29 = g6 ^ g3; slice g30 = g26 ^ g22;
    slice g31 = g30 & g4; slice g32 = g29 ^ g31; slice g33 = g31 ^ g11; slice g34 = g33 & ~g25;
    slice g35 = g34 & ~g2; slice g36 = g32 ^ g35; slice g37 = g36 & ~g5; slice g38 = g28 ^ g37;
    slice g39 = g28 ^ g12; slice g40 = g37 | g30; slice g41 = g35 ^ g5; slice g42 = g41 & ~g2;
    slice g43 = g40 ^ g42; slice g44 = g43 & ~g4; slice g45 = g39 ^ g44; slice g46 = g45 ^ g43;
    slice g47 = g46 ^ g19; slice g48 = g20 & ~g41; slice g49 = g48 ^ g12; slice g50 = g49 | g4;
    slice g51 = g47 ^ g50; slice g52 = g51 & g0; slice g53 = g45 ^ g52; slice g54 = g53 | g49;
    slice g55 = g54 & ~g36; slice g56 = g23 | g22; slice g57 = g56 & g2; slice g58 = g55 ^ g57;
    slice g59 = g54 ^ g28; slice g60 = g30 & ~g59; slice g61 = g23 | g20; slice g62 = g61 ^ g48;
    slice g63 = g62 & g2; slice g64 = g60 ^ g63; slice g65 = g64 & g1; slice g66 = g58 ^ g65;
    SLICE_OUT(2, 0, g38) SLICE_OUT(2, 1, g20) SLICE_OUT(2, 2, g66) SLICE_OUT(2, 3, g53)
}

/* 61 gates */
SLICE_BOX(3)
{
    slice g6 = g4 ^ g2; slice g7 = g6 ^ g3; slice g8 = g7 | g4; slice g9 = g8 & ~g0;
    slice g10 = g6 ^ g9; slice g11 = g0 & ~g3; slice g12 = g11 | g5; slice g13 = g10 ^ g12;
    slice g14 = g13 ^ g3; slice g15 = g14 & ~g2; slice g16 = g15 & g0; slice g17 = g1 ^ g16;
    slice g18 = g14 & g0; slice g19 = g18 & g5; slice g20 = g17 ^ g19; slice g21 = g20 & g1;
    slice g22 = g13 ^ g21; slice g23 = g7 ^ g5; slice g24 = g23 | g10; slice g25 = g24 & ~g0;
    slice g26 = g23 ^ g25; slice g27 = g14 & ~g5; slice g28 = g27 | g1; slice g29 = g26 ^ g28;
    slice g30 = ~g28; slice g31 = g23 ^ g22; slice g32 = g31 & ~g0; slice g33 = g30 ^ g32;
    slice g34 = g25 & g3; slice g35 = g34 & g1; slice g36 = g33 ^ g35; slice g37 = g36 & ~g2;
    slice g38 = g29 ^ g37; slice g39 = g32 & ~g37; slice g40 = g39 ^ g4; slice g41 = g39 & ~g34;
    slice g42 = g41 ^ g38; slice g43 = g42 & g5; slice g44 = g40 ^ g43; slice g45 = g44 & ~g12;
    slice g46 = g45 ^ g17; slice g47 = g24 & ~g40; slice g48 = g44 & g1; slice g49 = g47 ^ g48;
    slice g50 = g49 & g5; slice g51 = g46 ^ g50; slice g52 = g51 & g0; slice g53 = g44 ^ g52;
    slice g54 = g51 | g34; slice g55 = g54 ^ g33; slice g56 = g54 ^ g22; slice g57 = g56 & g42;
    slice g58 = g57 & g5; slice g59 = g55 ^ g58; slice g60 = g49 | g45; slice g61 = g60 ^ g13;
    slice g62 = g59 ^ g43; slice g63 = g62 & g5; slice g64 = g61 ^ g63; slice g65 = g64 & g0;
    slice g66 = g59 ^ g65; SLICE_OUT(3, 0, g38) SLICE_OUT(3, 1, g53) SLICE_OUT(3, 2, g66)
    SLICE_OUT(3, 3, g22)
}

/* 49 gates */
SLICE_BOX(4)
{
    slice g6 = ~g2; slice g7 = g6 | g3; slice g8 = g7 ^ g2; slice g9 = g8 & g1; slice g10 = g6 ^ g9;
    slice g11 = g3 & ~g9; slice g12 = g11 ^ g1; slice g13 = g12 & g0; slice g14 = g10 ^ g13;
    slice g15 = g8 ^ g3; slice g16 = g7 & ~g13; slice g17 = g16 & g0; slice g18 = g15 ^ g17;
    slice g19 = g18 & g4; slice g20 = g14 ^ g19; slice g21 = g20 | g12; slice g22 = g21 & g15;
    slice g23 = g22 & ~g0; slice g24 = g10 ^ g23; slice g25 = g23 ^ g12; slice g26 = g25 & g7;
    slice g27 = g26 & g4; slice g28 = g24 ^ g27; slice g29 = g28 & ~g5; slice g30 = g20 ^ g29;
    slice g31 = g30 ^ g28; slice g32 = g31 ^ g5; slice g33 = g4 ^ g3; slice g34 = g24 & ~g33;
    slice g35 = g34 ^ g2; slice g36 = g35 & ~g0; slice g37 = g33 ^ g36; slice g38 = g26 & ~g28;
    slice g39 = g38 ^ g16; slice g40 = g39 & ~g1; slice g41 = g37 ^ g40; slice g42 = g37 | g17;
    slice g43 = g42 ^ g0; slice g44 = g27 ^ g15; slice g45 = g44 ^ g7; slice g46 = g45 & g1;
    slice g47 = g43 ^ g46; slice g48 = g47 | g5; slice g49 = g41 ^ g48; slice g50 = g49 ^ g47;
    slice g51 = g50 ^ g5; slice g52 = ~g27; slice g53 = g52 | g4; slice g54 = g51 ^ g53;
    SLICE_OUT(4, 0, g49) SLICE_OUT(4, 1, g54) SLICE_OUT(4, 2, g32) SLICE_OUT(4, 3, g30)
}

/* 66 gates */
SLICE_BOX(5)
{
    slice g6 = g2 & g1; slice g7 = g6 | g4; slice g8 = g7 ^ g2; slice g9 = g8 | g1;
    slice g10 = g9 & ~g0; slice g11 = g7 ^ g10; slice g12 = g6 ^ g1; slice g13 = ~g10;
    slice g14 = g13 & ~g0; slice g15 = g12 ^ g14; slice g16 = g15 | g3; slice g17 = g11 ^ g16;
    slice g18 = g17 ^ g9; slice g19 = g18 & ~g4; slice g20 = g8 ^ g19; slice g21 = g20 & g0;
    slice g22 = g4 ^ g21; slice g23 = g14 | g7; slice g24 = g23 | g3; slice g25 = g22 ^ g24;
    slice g26 = g25 | g5; slice g27 = g17 ^ g26; slice g28 = g22 ^ g1; slice g29 = g2 & ~g27;
    slice g30 = g29 & ~g4; slice g31 = g28 ^ g30; slice g32 = g28 ^ g0; slice g33 = g32 | g27;
    slice g34 = g33 & g3; slice g35 = g31 ^ g34; slice g36 = g29 ^ g14; slice g37 = g35 & ~g1;
    slice g38 = g37 & ~g4; slice g39 = g36 ^ g38; slice g40 = g33 & ~g19; slice g41 = g40 ^ g31;
    slice g42 = g41 | g3; slice g43 = g39 ^ g42; slice g44 = g43 & g5; slice g45 = g35 ^ g44;
    slice g46 = g40 & ~g43; slice g47 = g46 ^ g15; slice g48 = g42 ^ g17; slice g49 = g22 | g8;
    slice g50 = g49 & g2; slice g51 = g48 ^ g50; slice g52 = g51 & ~g4; slice g53 = g47 ^ g52;
    slice g54 = g33 | g24; slice g55 = g41 & ~g37; slice g56 = g55 ^ g14; slice g57 = g56 & g4;
    slice g58 = g54 ^ g57; slice g59 = g58 & g5; slice g60 = g53 ^ g59; slice g61 = g60 ^ g45;
    slice g62 = g61 ^ g33; slice g63 = g19 & ~g47; slice g64 = g63 & ~g5; slice g65 = g62 ^ g64;
    slice g66 = g41 & ~g51; slice g67 = g49 ^ g39; slice g68 = g67 | g5; slice g69 = g66 ^ g68;
    slice g70 = g69 & ~g1; slice g71 = g65 ^ g70; SLICE_OUT(5, 0, g45) SLICE_OUT(5, 1, g60)
    SLICE_OUT(5, 2, g71) SLICE_OUT(5, 3, g27)
}

/* 63 gates */
SLICE_BOX(6)
{
    slice g6 = g3 | g0; slice g7 = g6 & ~g5; slice g8 = g4 ^ g3; slice g9 = g8 ^ g0;
    slice g10 = g9 & g4; slice g11 = g7 ^ g10; slice g12 = g11 | g0; slice g13 = g12 & ~g4;
    slice g14 = g0 ^ g13; slice g15 = g14 | g2; slice g16 = g11 ^ g15; slice g17 = g16 ^ g9;
    slice g18 = g17 | g12; slice g19 = g11 & ~g17; slice g20 = g19 & ~g2; slice g21 = g18 ^ g20;
    slice g22 = g21 & g1; slice g23 = g16 ^ g22; slice g24 = g18 & ~g5; slice g25 = g24 ^ g9;
    slice g26 = g12 & g2; slice g27 = g26 ^ g1; slice g28 = g27 & g1; slice g29 = g25 ^ g28;
    slice g30 = ~g2; slice g31 = g8 & ~g19; slice g32 = g31 & g0; slice g33 = g30 ^ g32;
    slice g34 = g22 & ~g33; slice g35 = g34 & ~g7; slice g36 = g35 & g1; slice g37 = g33 ^ g36;
    slice g38 = g37 & ~g4; slice g39 = g29 ^ g38; slice g40 = g15 ^ g12; slice g41 = g40 ^ g5;
    slice g42 = g40 | g17; slice g43 = g42 & g3; slice g44 = g30 ^ g43; slice g45 = g44 & ~g1;
    slice g46 = g41 ^ g45; slice g47 = g23 & ~g14; slice g48 = g47 ^ g35; slice g49 = g45 ^ g13;
    slice g50 = g49 & ~g9; slice g51 = g50 | g1; slice g52 = g48 ^ g51; slice g53 = g52 & g2;
    slice g54 = g46 ^ g53; slice g55 = g53 | g27; slice g56 = g55 ^ g8; slice g57 = g48 | g47;
    slice g58 = g57 ^ g27; slice g59 = g58 & ~g0; slice g60 = g56 ^ g59; slice g61 = g42 ^ g37;
    slice g62 = g61 | g56; slice g63 = g57 & g16; slice g64 = g63 ^ g62; slice g65 = g64 & g0;
    slice g66 = g62 ^ g65; slice g67 = g66 & g5; slice g68 = g60 ^ g67; SLICE_OUT(6, 0, g39)
    SLICE_OUT(6, 1, g54) SLICE_OUT(6, 2, g68) SLICE_OUT(6, 3, g23)
}

/* 63 gates */
SLICE_BOX(7)
{
    slice g6 = g4 ^ g3; slice g7 = g6 ^ g2; slice g8 = g7 & g6; slice g9 = g8 & ~g4;
    slice g10 = g5 ^ g9; slice g11 = g10 & ~g0; slice g12 = g7 ^ g11; slice g13 = g0 & ~g10;
    slice g14 = g13 & ~g5; slice g15 = g12 ^ g14; slice g16 = ~g2; slice g17 = g6 & ~g4;
    slice g18 = g15 & g0; slice g19 = g17 ^ g18; slice g20 = g19 & g5; slice g21 = g16 ^ g20;
    slice g22 = g21 & g1; slice g23 = g15 ^ g22; slice g24 = g1 & ~g18; slice g25 = g24 ^ g0;
    slice g26 = g21 ^ g1; slice g27 = g26 & g2; slice g28 = g25 ^ g27; slice g29 = g25 | g7;
    slice g30 = g29 ^ g19; slice g31 = g30 & ~g5; slice g32 = g28 ^ g31; slice g33 = g32 ^ g1;
    slice g34 = g0 & ~g2; slice g35 = g33 ^ g34; slice g36 = g35 & g14; slice g37 = g36 | g15;
    slice g38 = g37 & ~g5; slice g39 = g35 ^ g38; slice g40 = g39 | g3; slice g41 = g32 ^ g40;
    slice g42 = g12 | g1; slice g43 = g42 ^ g26; slice g44 = g32 | g26; slice g45 = g44 ^ g3;
    slice g46 = g45 & ~g0; slice g47 = g43 ^ g46; slice g48 = g42 ^ g17; slice g49 = g37 & ~g32;
    slice g50 = g49 | g0; slice g51 = g48 ^ g50; slice g52 = g51 & ~g4; slice g53 = g47 ^ g52;
    slice g54 = g53 | g21; slice g55 = g12 & g4; slice g56 = g54 ^ g55; slice g57 = g10 | g1;
    slice g58 = g57 ^ g44; slice g59 = g58 & ~g2; slice g60 = g56 ^ g59; slice g61 = g53 & ~g33;
    slice g62 = g61 ^ g46; slice g63 = g57 & g37; slice g64 = g63 ^ g30; slice g65 = g64 & g2;
    slice g66 = g62 ^ g65; slice g67 = g66 | g3; slice g68 = g60 ^ g67; SLICE_OUT(7, 0, g53)
    SLICE_OUT(7, 1, g68) SLICE_OUT(7, 2, g41) SLICE_OUT(7, 3, g23)
}

/* 58 gates */
SLICE_BOX(8)
{
    slice g6 = g3 ^ g2; slice g7 = g6 ^ g1; slice g8 = g6 | g4; slice g9 = g8 & ~g0;
    slice g10 = g7 ^ g9; slice g11 = g4 & g1; slice g12 = g0 & ~g11; slice g13 = g12 | g2;
    slice g14 = g10 ^ g13; slice g15 = g11 & ~g14; slice g16 = g4 | g3; slice g17 = g16 ^ g15;
    slice g18 = g17 & g0; slice g19 = g15 ^ g18; slice g20 = g1 & ~g17; slice g21 = g20 & ~g2;
    slice g22 = g19 ^ g21; slice g23 = g22 & g5; slice g24 = g14 ^ g23; slice g25 = g7 ^ g5;
    slice g26 = g12 & ~g4; slice g27 = g25 ^ g26; slice g28 = g22 ^ g6; slice g29 = g28 & ~g24;
    slice g30 = g29 & g1; slice g31 = g27 ^ g30; slice g32 = ~g23; slice g33 = g32 & ~g4;
    slice g34 = g9 ^ g33; slice g35 = g29 ^ g26; slice g36 = g35 ^ g10; slice g37 = g36 & ~g1;
    slice g38 = g34 ^ g37; slice g39 = g38 & ~g2; slice g40 = g31 ^ g39; slice g41 = g20 ^ g12;
    slice g42 = g41 ^ g2; slice g43 = g10 | g1; slice g44 = ~g41; slice g45 = g44 & ~g3;
    slice g46 = g43 ^ g45; slice g47 = g46 & ~g4; slice g48 = g42 ^ g47; slice g49 = g36 & ~g47;
    slice g50 = g49 ^ g1; slice g51 = g34 & ~g13; slice g52 = g51 & g4; slice g53 = g50 ^ g52;
    slice g54 = g53 | g5; slice g55 = g48 ^ g54; slice g56 = g28 ^ g14; slice g57 = g56 & ~g11;
    slice g58 = g40 | g27; slice g59 = g58 ^ g7; slice g60 = g59 & g3; slice g61 = g57 ^ g60;
    slice g62 = g61 & g5; slice g63 = g48 ^ g62; SLICE_OUT(8, 0, g55) SLICE_OUT(8, 1, g40)
    SLICE_OUT(8, 2, g24) SLICE_OUT(8, 3, g63)
}
